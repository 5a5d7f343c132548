//! Integration tests: one binary, real parts. `support` starts brokers, S3 servers and daemons.

#[cfg(test)]
mod support;

#[cfg(test)]
mod archive;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod control;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod github;
#[cfg(test)]
mod graphql;
#[cfg(test)]
mod kafka;
#[cfg(test)]
mod operator;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod sweeps;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod torture;
