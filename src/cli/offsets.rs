//! `ghauditd offsets`: where each partition stood at a time, for whoever resets a consumer.

use super::times::{When, parse_when};
use super::{Exit, Global, Output};
use crate::audit::Topic;
use crate::kafka::consumer::{ReadError, TopicReader};
use crate::time::{rfc3339_ms, wall_ms};
use clap::{Args, ValueEnum};
use serde::Serialize;

const LONG_ABOUT: &str = "\
Tell, for each partition of the data topics, the offset to which a consumer has to be reset, to see all records that \
were committed at or after a time.

The time is that of the broker, not that of the entry: an entry found late has a late offset. A transaction takes a \
moment, so the offset is that of the first record that the broker took kafka.transaction_timeout before the time: a \
few records may be read twice, none is left out. Reads only; nobody is disturbed.";

const EXAMPLES: &str = "\
Examples:
  ghauditd offsets --at 2026-11-20T00:00:00Z
  ghauditd offsets --at 36h github.audit.git
  ghauditd offsets --at 2h --format csv > offsets.csv
  kafka-consumer-groups.sh --bootstrap-server kafka:9092 --group siem --reset-offsets \\
      --from-file offsets.csv --execute
  kcat -b kafka:9092 -C -t github.audit.web -p 0 -o OFFSET -X isolation.level=read_committed";

/// Tell the offsets at a time, to reset a consumer to
#[derive(Debug, Args)]
#[command(long_about = LONG_ABOUT, after_long_help = EXAMPLES)]
pub(super) struct OffsetsArgs {
    /// Topics; without any, all data topics and the dead letters
    topics: Vec<String>,
    /// A time (2026-11-20T00:00:00Z), the begin of a day (2026-11-20, UTC), or how long ago (36h, 7d)
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    at: When,
    /// How they are printed
    #[arg(long, value_enum, default_value = "table", conflicts_with = "json")]
    format: OffsetsFormat,
    /// Answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OffsetsFormat {
    /// For people
    Table,
    /// topic,partition,offset: for `kafka-consumer-groups --reset-offsets --from-file`
    Csv,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    topic: String,
    partition: i32,
    /// The first record that was not visible at the time; the end of the partition where there is none.
    offset: i64,
    /// The end of the partition.
    end: i64,
}

#[derive(Serialize)]
struct Answer<'a> {
    at_ms: i64,
    partitions: &'a [Row],
}

pub(super) fn run(args: &OffsetsArgs, global: &Global, out: &mut Output) -> anyhow::Result<Exit> {
    let Some(loaded) = super::config_or_complaints(global, out) else { return Ok(Exit::Config) };
    let kafka = loaded.config.kafka;
    let at_ms = args.at.start_ms(wall_ms());
    // what was taken before that and was still open then has been aborted since
    let slack_ms = i64::try_from(kafka.transaction_timeout.as_millis()).unwrap_or(0);
    let from_ms = at_ms.saturating_sub(slack_ms);
    let topics = if args.topics.is_empty() {
        let data = Topic::ALL.into_iter().filter(|topic| topic.holds_entries());
        data.map(|topic| kafka.topic(topic).to_owned()).collect()
    } else {
        args.topics.clone()
    };
    let found = super::block_on(async {
        tokio::task::spawn_blocking(move || rows(&TopicReader::new(&kafka)?, &topics, from_ms))
            .await
    })??;
    let rows = match found {
        Ok(rows) => rows,
        Err(error @ (ReadError::NoTopic { .. } | ReadError::NoPartition { .. })) => {
            out.complain(error);
            return Ok(Exit::NotFound);
        }
        Err(error) => {
            out.complain(format!("offsets cannot be read: {error}"));
            return Ok(if error.is_retriable() { Exit::Unexpected } else { Exit::Refused });
        }
    };
    print(args, at_ms, &rows, out)?;
    Ok(Exit::Ok)
}

fn rows(reader: &TopicReader, topics: &[String], at_ms: i64) -> Result<Vec<Row>, ReadError> {
    let mut rows = Vec::new();
    for topic in topics {
        for partition in 0..reader.partition_count(topic)? {
            let end = reader.watermarks(topic, partition)?.stable;
            let offset = reader.offset_at(topic, partition, at_ms)?.map_or(end, |at| at.min(end));
            rows.push(Row { topic: topic.clone(), partition, offset, end });
        }
    }
    Ok(rows)
}

fn print(args: &OffsetsArgs, at_ms: i64, rows: &[Row], out: &mut Output) -> anyhow::Result<()> {
    if args.json {
        out.json(&Answer { at_ms, partitions: rows })?;
        return Ok(());
    }
    if args.format == OffsetsFormat::Csv {
        for row in rows {
            out.line(format!("{},{},{}", row.topic, row.partition, row.offset))?;
        }
        return Ok(());
    }
    out.line(format!("offsets to see all that was committed at or after {}", rfc3339_ms(at_ms)))?;
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let behind = row.end.saturating_sub(row.offset);
            let [partition, offset, end] =
                [row.partition.to_string(), row.offset.to_string(), row.end.to_string()];
            vec![row.topic.clone(), partition, offset, end, behind.to_string()]
        })
        .collect();
    out.table(&["TOPIC", "PARTITION", "OFFSET", "END", "OFFSETS FROM THERE"], &cells)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::testing::printed;

    #[test]
    fn offsets_for_people_and_for_kafkas_own_tool() {
        let row = |partition, offset, end| Row { topic: "t".to_owned(), partition, offset, end };
        let rows = [row(0, 5, 20), row(1, 9, 9)];
        let shown = |format| {
            let args = OffsetsArgs { topics: Vec::new(), at: When::Time(0), format, json: false };
            printed(|out| print(&args, 1_795_132_800_000, &rows, out).unwrap())
        };
        assert_eq!(shown(OffsetsFormat::Csv), "t,0,5\nt,1,9\n");
        insta::assert_snapshot!(shown(OffsetsFormat::Table), @r"
        offsets to see all that was committed at or after 2026-11-20T00:00:00.000Z
        TOPIC  PARTITION  OFFSET  END  OFFSETS FROM THERE
        t      0          5       20   15
        t      1          9       9    0
        ");
    }
}
