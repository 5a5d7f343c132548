//! The one writer: everything that a command says to its user goes through here.

use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};

/// The reader has gone (`ghauditd ... | head`): not an error of ours, nothing more to do.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the output has gone")]
pub struct Closed;

/// Why nothing could be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The reader has gone.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The output cannot take it (disk full, ...).
    #[error("cannot write the output: {0}")]
    Write(#[source] io::Error),
    /// Not JSON.
    #[error("cannot show the answer as JSON: {0}")]
    Json(#[source] serde_json::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Closed(Closed)
        } else {
            Self::Write(error)
        }
    }
}

/// Where a command's answers (stdout) and complaints (stderr) go.
pub struct Output {
    answers: Box<dyn Write + Send>,
    complaints: Box<dyn Write + Send>,
}

impl Output {
    /// The process's own.
    pub fn of_process() -> Self {
        Self::new(Box::new(io::BufWriter::new(io::stdout())), Box::new(io::stderr()))
    }

    /// Any two writers.
    pub fn new(answers: Box<dyn Write + Send>, complaints: Box<dyn Write + Send>) -> Self {
        Self { answers, complaints }
    }

    /// One line of the answer.
    pub fn line(&mut self, text: impl Display) -> Result<(), OutputError> {
        Ok(writeln!(self.answers, "{text}")?)
    }

    /// Bytes of the answer, as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        Ok(self.answers.write_all(bytes)?)
    }

    /// Where the answer goes, for what is written piece by piece.
    pub fn writer(&mut self) -> impl Write + '_ {
        &mut self.answers
    }

    /// The answer as one JSON document, indented, with a line's end.
    pub fn json<T: Serialize>(&mut self, value: &T) -> Result<(), OutputError> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(OutputError::Json)?;
        bytes.push(b'\n');
        self.bytes(&bytes)
    }

    /// The answer as a table: columns are as wide as their widest cell.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) -> Result<(), OutputError> {
        let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
        let width = |column: usize| {
            let cells = std::iter::once(&head).chain(rows).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        for row in std::iter::once(&head).chain(rows) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            self.line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }

    /// A complaint, on stderr. One that cannot be written has nowhere else to go.
    pub fn complain(&mut self, text: impl Display) {
        drop(writeln!(self.complaints, "ghauditd: {text}"));
    }

    /// Hands everything over.
    pub fn flush(&mut self) -> Result<(), OutputError> {
        Ok(self.answers.flush()?)
    }
}

/// What a test sees of an output.
#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The answers that are printed.
    pub(in crate::cli) fn printed(print: impl FnOnce(&mut Output)) -> String {
        let shared = Shared::default();
        print(&mut Output::new(Box::new(shared.clone()), Box::new(io::sink())));
        String::from_utf8(shared.0.lock().unwrap().clone()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let rows =
            [vec!["acme".to_owned(), "web".to_owned()], vec!["a".to_owned(), "git".to_owned()]];
        let text = testing::printed(|out| out.table(&["ENTITY", "LANE"], &rows).unwrap());
        assert_eq!(text, "ENTITY  LANE\nacme    web\na       git\n");
    }

    #[test]
    fn a_reader_that_has_gone_is_told_apart() {
        let error = OutputError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(error, OutputError::Closed(_)));
        let error = OutputError::from(io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(error, OutputError::Write(_)));
    }
}
