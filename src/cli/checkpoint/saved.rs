//! `ghauditd checkpoint save|delete|export|import`: named copies of a checkpoint.

use super::{no_checkpoint, read};
use crate::audit::operation::Operation;
use crate::audit::saved::{EXPORT_BYTES_MAX, Export};
use crate::audit::{Checkpoint, EntityName, SavedName};
use crate::cli::control::{self, RequestArgs};
use crate::cli::{Exit, Output};
use crate::config::Config;
use crate::kafka::restore::Restored;
use crate::time::wall_ms;
use clap::Args;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// A saved checkpoint, or the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Which {
    /// The checkpoint itself.
    Current,
    /// A named copy of it.
    Saved(SavedName),
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Current => f.write_str(SavedName::CURRENT),
            Self::Saved(name) => name.fmt(f),
        }
    }
}

impl std::str::FromStr for Which {
    type Err = crate::audit::operation::SavedNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == SavedName::CURRENT { Ok(Self::Current) } else { text.parse().map(Self::Saved) }
    }
}

impl Which {
    /// The checkpoint that is meant; complains when there is none.
    pub(super) fn find<'a>(
        &self,
        config: &Config,
        restored: &'a Restored,
        entity: &EntityName,
        out: &mut Output,
    ) -> Result<&'a Checkpoint, Exit> {
        match self {
            Self::Current => restored.checkpoints.get(entity).ok_or_else(|| {
                out.complain(no_checkpoint(config, entity.as_str()));
                Exit::NotFound
            }),
            Self::Saved(name) => {
                let copies = restored.saved.get(entity);
                let copy = copies.and_then(|copies| copies.get(name));
                copy.map(|saved| &*saved.checkpoint).ok_or_else(|| {
                    out.complain(unknown(entity, name, restored));
                    Exit::NotFound
                })
            }
        }
    }
}

/// There is no such copy: which there are.
pub(super) fn unknown(entity: &EntityName, name: &SavedName, restored: &Restored) -> String {
    let names: Vec<&str> = restored
        .saved
        .get(entity)
        .into_iter()
        .flat_map(|copies| copies.keys().map(SavedName::as_str))
        .collect();
    let has = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("entity {entity} has no saved checkpoint {name}; it has: {has}")
}

/// Keep a copy of the checkpoint under a name
#[derive(Debug, Args)]
pub(super) struct SaveArgs {
    /// Its name: a-z 0-9 . _ -
    name: SavedName,
    #[command(flatten)]
    request: RequestArgs,
}

/// Forget a saved copy
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// Its name
    name: SavedName,
    #[command(flatten)]
    request: RequestArgs,
}

/// Write a checkpoint to a file
///
/// JSON with the id of the installation and a checksum. It is no backup of what was collected: it says how far was read.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// A saved checkpoint, or `current`
    name: Which,
    /// Name of the entity; needed where the configuration has several
    #[arg(long, value_name = "NAME")]
    entity: Option<String>,
    /// The file; it must not be there yet. Without it: standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Keep a checkpoint from a file under a name
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// A file of `checkpoint export`, of this installation
    file: PathBuf,
    /// The name under which it is kept: a-z 0-9 . _ -
    #[arg(long)]
    name: SavedName,
    #[command(flatten)]
    request: RequestArgs,
}

pub(super) fn save(args: &SaveArgs, config: &Config, out: &mut Output) -> anyhow::Result<Exit> {
    let operation = Operation::SaveCheckpoint { name: args.name.clone() };
    ask(config, operation, &args.request, out)
}

pub(super) fn delete(args: &DeleteArgs, config: &Config, out: &mut Output) -> anyhow::Result<Exit> {
    let operation = Operation::DeleteCheckpoint { name: args.name.clone() };
    ask(config, operation, &args.request, out)
}

fn ask(
    config: &Config,
    operation: Operation,
    args: &RequestArgs,
    out: &mut Output,
) -> anyhow::Result<Exit> {
    match control::entity_of(config, args.entity.as_deref(), out) {
        Ok(entity) => control::run(config, &entity.name, operation, args, out),
        Err(exit) => Ok(exit),
    }
}

pub(super) fn export(args: &ExportArgs, config: &Config, out: &mut Output) -> anyhow::Result<Exit> {
    let entity = match control::entity_of(config, args.entity.as_deref(), out) {
        Ok(entity) => &entity.name,
        Err(exit) => return Ok(exit),
    };
    let restored = match read(config, out)? {
        Ok(restored) => restored,
        Err(exit) => return Ok(exit),
    };
    let checkpoint = match args.name.find(config, &restored, entity, out) {
        Ok(checkpoint) => checkpoint,
        Err(exit) => return Ok(exit),
    };
    let instance = restored.genesis.as_ref().map(|genesis| genesis.instance.clone());
    let name = args.name.to_string();
    let export = Export::new(instance.unwrap_or_default(), name, wall_ms(), checkpoint);
    let Some(path) = &args.output else {
        out.json(&export)?;
        return Ok(Exit::Ok);
    };
    let shown = path.display();
    let written =
        OpenOptions::new().write(true).create_new(true).open(path).and_then(|mut file| {
            serde_json::to_writer_pretty(&mut file, &export)?;
            file.write_all(b"\n")?;
            file.sync_all()
        });
    match written {
        Ok(()) => {
            let sequence = checkpoint.sequence;
            out.line(format!("{} of {entity} is in {shown}: sequence {sequence}", args.name))?;
            Ok(Exit::Ok)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            out.complain(format!("{shown} is there already: choose another name"));
            Ok(Exit::Usage)
        }
        Err(error) => {
            out.complain(format!("{shown} cannot be written: {error}"));
            Ok(Exit::Unexpected)
        }
    }
}

pub(super) fn import(args: &ImportArgs, config: &Config, out: &mut Output) -> anyhow::Result<Exit> {
    let (export, checkpoint) = match load(&args.file) {
        Ok(read) => read,
        Err(complaint) => {
            out.complain(complaint);
            return Ok(Exit::Usage);
        }
    };
    if let Some(wanted) = args.request.entity.as_deref()
        && wanted != export.entity.as_str()
    {
        let shown = args.file.display();
        out.complain(format!("{shown} is of entity {}, not of {wanted}", export.entity));
        return Ok(Exit::Usage);
    }
    let entity = match control::entity_of(config, Some(export.entity.as_str()), out) {
        Ok(entity) => &entity.name,
        Err(exit) => return Ok(exit),
    };
    let restored = match read(config, out)? {
        Ok(restored) => restored,
        Err(exit) => return Ok(exit),
    };
    let here = restored.genesis.map(|genesis| genesis.instance).unwrap_or_default();
    if here != export.instance {
        out.complain(format!(
            "{} is of another installation ({}, this one is {here}): what it says was read, this one has not read",
            args.file.display(),
            export.instance
        ));
        return Ok(Exit::Usage);
    }
    let (name, checkpoint) = (args.name.clone(), Box::new(checkpoint));
    let operation = Operation::ImportCheckpoint { name, checkpoint };
    control::run(config, entity, operation, &args.request, out)
}

fn load(path: &Path) -> Result<(Export, Checkpoint), String> {
    let shown = path.display();
    let cannot = |error: std::io::Error| format!("{shown} cannot be read: {error}");
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    file.take(EXPORT_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes).map_err(cannot)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > EXPORT_BYTES_MAX {
        return Err(format!("{shown} is larger than {EXPORT_BYTES_MAX} bytes: no checkpoint is"));
    }
    Export::read(&bytes).map_err(|error| format!("{shown}: {error}"))
}
