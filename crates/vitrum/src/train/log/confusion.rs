//! The confusion matrix: counts of images by true and predicted class.

#[cfg(feature = "plots")]
mod drawing;

use std::collections::BTreeMap;

use super::folder::RunFolder;
use super::{LogError, files};

/// Largest number of classes for a table in matrix form; more classes are listed in pairs.
const MAX_MATRIX: usize = 1000;

/// Counts of images by true and predicted class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: BTreeMap<(usize, usize), u64>,
}

impl Confusion {
    /// An empty matrix of this many classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: BTreeMap::new() }
    }

    /// Counts an image of class `label` with prediction `pred`. A class beyond the matrix enlarges it.
    pub fn add(&mut self, label: usize, pred: usize) {
        self.classes = self.classes.max(label + 1).max(pred + 1);
        *self.counts.entry((label, pred)).or_default() += 1;
    }

    /// Number of images of class `label` with prediction `pred`.
    pub fn count(&self, label: usize, pred: usize) -> u64 {
        self.counts.get(&(label, pred)).copied().unwrap_or(0)
    }

    /// Number of images.
    pub fn images(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Writes `plots/confusion_matrix.csv` and, with the feature `plots`, `.svg` and `.png`. `names` are the classes' names; a class without a name
    /// has its number.
    ///
    /// # Errors
    /// [`LogError::Picture`], [`LogError::Io`].
    pub fn write(&self, folder: &RunFolder, names: &[String]) -> Result<(), LogError> {
        let path = |ending: &str| folder.plots().join(format!("confusion_matrix.{ending}"));
        files::replace(&path("csv"), &self.csv(names)?)?;
        #[cfg(feature = "plots")]
        {
            files::replace(&path("svg"), self.svg(names)?.as_bytes())?;
            files::replace(&path("png"), &crate::paint::png(&self.pixels(names)?)?)?;
        }
        Ok(())
    }

    /// The counts as CSV: a row per true class, a column per predicted class. With more than a thousand classes: a
    /// row per pair that occurs.
    ///
    /// # Errors
    /// [`LogError::Picture`]; never in practice, because the table is written to memory.
    pub fn csv(&self, names: &[String]) -> Result<Vec<u8>, LogError> {
        let fail = |reason: String| LogError::picture("confusion_matrix.csv", reason);
        let mut table = csv::Writer::from_writer(Vec::new());
        self.write_csv(&mut table, names).map_err(|e| fail(e.to_string()))?;
        table.into_inner().map_err(|e| fail(e.to_string()))
    }

    fn write_csv(&self, table: &mut csv::Writer<Vec<u8>>, names: &[String]) -> Result<(), csv::Error> {
        let name = |class| name(names, class);
        if self.classes > MAX_MATRIX {
            table.write_record(["label", "pred", "count"])?;
            return self.counts.iter().try_for_each(|((label, pred), count)| {
                table.write_record([name(*label), name(*pred), count.to_string()])
            });
        }
        table.write_record(std::iter::once("label".into()).chain((0..self.classes).map(name)))?;
        (0..self.classes).try_for_each(|label| {
            let counts = (0..self.classes).map(|pred| self.count(label, pred).to_string());
            table.write_record(std::iter::once(name(label)).chain(counts))
        })
    }
}

fn name(names: &[String], class: usize) -> String {
    names.get(class).cloned().unwrap_or_else(|| class.to_string())
}
