//! From the recipe to the objective of the run.

use crate::models::{Model, PixelScale};
use crate::train::TrainError;
use crate::train::build::Built;
use crate::train::distill::{DistillConfig, Distillation, Teacher, TeacherOptions};
use crate::train::job::Job;
use crate::train::objective::{ClassLoss, Objective, objective_of};
use crate::train::pretext::Pretext;
use crate::train::task::Task;

/// The loss of the labels, and of a teacher's logits if the loss depends on a teacher. Adds the teacher's notes to the
/// model's notes.
pub(super) fn objective(
    job: &Job,
    num_classes: usize,
    classes: &[String],
    built: &mut Built,
) -> Result<Box<dyn Objective<Model>>, TrainError> {
    let recipe = &job.recipe;
    if recipe.task()? == Task::Pretrain {
        return Ok(Box::new(Pretext { scale: PixelScale::from(&built.preprocess) }));
    }
    let (base, config) = (ClassLoss::from(recipe), DistillConfig::from(recipe));
    let Some(model) = recipe.teacher.clone().filter(|_| config.asks_teacher()) else {
        return objective_of(recipe);
    };
    let options = TeacherOptions {
        model,
        checkpoint: recipe.teacher_checkpoint.clone(),
        student: built.preprocess.clone(),
        classes: classes.to_vec(),
        num_classes,
        cache: recipe.cache_teacher,
        offline: job.offline,
    };
    let (teacher, notes) = Teacher::load(&options, &job.device)?;
    built.notes.extend(notes);
    Ok(Box::new(Distillation { base, config, teacher }))
}
