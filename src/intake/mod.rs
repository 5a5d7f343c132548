//! What GitHub pushes: its own audit log stream (Splunk HEC) and webhooks. Reserved: nothing is received yet.
