//! Where results go: checked before the work begins, there as a whole or not at all.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

/// Refuses, before any work is done, a place where no file can be put.
pub fn check(path: &Path) -> Result<()> {
    let folder = folder(path);
    if !folder.is_dir() {
        bail!("writing {}: there is no folder {}", path.display(), folder.display());
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => bail!("writing {}: a folder; want the name of a file", path.display()),
        // Results are renamed into place, which would put a file where the device or pipe was.
        Ok(found) if !found.is_file() => {
            bail!("writing {}: neither a new file nor a regular one", path.display())
        }
        _ => Ok(()),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A CSV file that grows beside its place, and is put there by [`finish`](Table::finish).
pub struct Table {
    path: PathBuf,
    rows: csv::Writer<BufWriter<File>>,
    file: NamedTempFile,
}

impl Table {
    /// A table with this header.
    pub fn create(path: &Path, header: &[&str]) -> Result<Self> {
        let context = || format!("writing {}", path.display());
        let mut builder = tempfile::Builder::new();
        builder.prefix(".vitrum-");
        #[cfg(unix)]
        // What any new file gets; the process's mask takes its part.
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder(path)).with_context(context)?;
        let rows = BufWriter::new(file.reopen().with_context(context)?);
        let mut table = Self { path: path.to_path_buf(), rows: csv::Writer::from_writer(rows), file };
        table.row(header)?;
        Ok(table)
    }

    /// One more row.
    pub fn row(&mut self, cells: &[&str]) -> Result<()> {
        self.rows.write_record(cells).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Puts the file in its place.
    pub fn finish(mut self) -> Result<()> {
        let context = || format!("writing {}", self.path.display());
        self.rows.flush().with_context(context)?;
        self.file.persist(&self.path).with_context(context)?;
        Ok(())
    }
}
