//! A run's notes on its data: what was chosen, left out and replaced.

use super::Run;
use crate::data::loader::BadSample;
use crate::train::TrainError;
use crate::train::log::DataReport;

impl Run<'_> {
    /// Notes the source of the images, and the entries that were left out.
    pub(super) fn tell_data(&mut self) -> Result<(), TrainError> {
        self.report.validation.clone_from(&self.sets.how);
        self.report.left_out = self.sets.skipped();
        self.note(self.sets.how.clone());
        if !self.report.left_out.is_empty() {
            self.note(format!("{}: {}", self.recipe.data, self.report.left_out));
        }
        Ok(self.report.write(&self.folder)?)
    }

    /// Notes the training images found unusable since the last call.
    pub(super) fn tell_replaced(&mut self) -> Result<(), TrainError> {
        let bad = self.loader.bad();
        if bad.len() == self.bad_images {
            return Ok(());
        }
        self.bad_images = bad.len();
        for image in DataReport::add(&mut self.report.replaced, &bad) {
            self.note(format!("training image replaced by the next one: {image}"));
        }
        Ok(self.report.write(&self.folder)?)
    }

    /// Notes the images that are used although their files are damaged, each once per run.
    pub(super) fn tell_damaged(&mut self) -> Result<(), TrainError> {
        let mut faults = self.sets.train.set().faults();
        faults.extend(self.sets.val.set().faults());
        let new = DataReport::add(&mut self.report.damaged, &faults);
        if new.is_empty() {
            return Ok(());
        }
        for image in new {
            self.note(format!("image used although its file is damaged: {image}"));
        }
        Ok(self.report.write(&self.folder)?)
    }

    /// Notes the validation images that cannot be used, each once per run.
    pub(super) fn tell_unreadable(&mut self, bad: &[BadSample]) -> Result<(), TrainError> {
        let new = DataReport::add(&mut self.report.unreadable, bad);
        if new.is_empty() {
            return Ok(());
        }
        for image in new {
            self.note(format!("validation image left out: {image}"));
        }
        Ok(self.report.write(&self.folder)?)
    }
}
