//! Integration tests: one binary, real parts. `support` starts brokers, S3 servers and daemons.

#[cfg(test)]
mod support;

#[cfg(test)]
mod archive;
#[cfg(test)]
mod budget;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod control;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod day;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod github;
#[cfg(test)]
mod graphql;
#[cfg(test)]
mod kafka;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod operator;
#[cfg(test)]
mod rebuild;
#[cfg(test)]
mod reconcile;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod sweeps;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod torture;
