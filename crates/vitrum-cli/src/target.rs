//! Output files: checked before the work begins, written atomically.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

/// Refuses, before any work, a path where no file can be written.
pub fn check(path: &Path) -> Result<()> {
    let folder = folder(path);
    if !folder.is_dir() {
        bail!("writing {}: there is no folder {}", path.display(), folder.display());
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => bail!("writing {}: a folder; want the name of a file", path.display()),
        // Results are renamed into place. A rename would replace a device or pipe by a file.
        Ok(found) if !found.is_file() => {
            bail!("writing {}: neither a new file nor a regular one", path.display())
        }
        _ => Ok(()),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A CSV file that is written beside its target and moved there by [`finish`](Table::finish).
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
        // The permissions of any new file; the process's umask applies.
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder(path)).with_context(context)?;
        let rows = BufWriter::new(file.reopen().with_context(context)?);
        let mut table = Self { path: path.to_path_buf(), rows: csv::Writer::from_writer(rows), file };
        table.row(header)?;
        Ok(table)
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[&str]) -> Result<()> {
        self.rows.write_record(cells).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Moves the file to its target.
    pub fn finish(mut self) -> Result<()> {
        let context = || format!("writing {}", self.path.display());
        self.rows.flush().with_context(context)?;
        self.file.persist(&self.path).with_context(context)?;
        Ok(())
    }
}
