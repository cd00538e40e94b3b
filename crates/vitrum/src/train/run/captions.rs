//! Captions of a run's pictures, by its task.

use crate::data::dataset::Target;
use crate::tasks::classify::sigmoid;
use crate::train::judge::Answers;
use crate::train::log::pictures::{Caption, answer_captions, target_captions};
use crate::train::task::Task;

/// Most lines of a caption.
const LINES: usize = 4;

/// Captions of training images from the rows of their targets, `[B, K]`.
pub(super) fn of_rows(task: Task, rows: &[f32], names: &[String]) -> Vec<Caption> {
    let rows_of = || rows.chunks(names.len().max(1));
    match task {
        Task::Classify => target_captions(rows, names),
        Task::Multilabel => rows_of().map(|row| right(shares(row, names))).collect(),
        Task::Regress => {
            rows_of().map(|row| right(numbers(row.iter().map(|v| f64::from(*v)), names))).collect()
        }
        Task::Pretrain => Vec::new(),
    }
}

/// Captions of validation images from the model's answers.
pub(super) fn of_answers(answers: &Answers<'_>, names: &[String]) -> Vec<Caption> {
    match *answers {
        Answers::Classes { logits, labels, .. } => answer_captions(logits, labels, names),
        Answers::Targets { logits, targets, .. } => {
            logits.iter().zip(targets).map(|(logits, target)| of_answer(logits, target, names)).collect()
        }
    }
}

fn of_answer(logits: &[f64], target: &Target, names: &[String]) -> Caption {
    match target {
        Target::Values(values) => {
            let mut lines = numbers(logits.iter().copied(), names);
            let truth: Vec<String> = values.iter().map(|value| short(f64::from(*value))).collect();
            lines.push(format!("is {}", truth.join(", ")));
            right(lines)
        }
        Target::Nothing => right(logits.iter().map(|loss| format!("loss {}", short(*loss))).collect()),
        _ => {
            let decided = |class: &usize| sigmoid(logits[*class]) > 0.5;
            let found: Vec<usize> = (0..logits.len()).filter(decided).collect();
            let wrong = found != target.class_indexes();
            let mut lines = vec![listed(&found, names)];
            if wrong {
                lines.push(format!("is {}", listed(target.class_indexes(), names)));
            }
            Caption { lines, wrong }
        }
    }
}

fn right(mut lines: Vec<String>) -> Caption {
    lines.truncate(LINES);
    Caption { lines, wrong: false }
}

/// The classes with a share of a tenth or more, the larger first; a share below 0.9 is written.
fn shares(row: &[f32], names: &[String]) -> Vec<String> {
    let mut classes: Vec<usize> = (0..row.len()).filter(|&class| row[class] >= 0.1).collect();
    classes.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
    let line = |class: &usize| match row[*class] {
        share if share < 0.9 => format!("{:.0} % {}", 100.0 * share, name(names, *class)),
        _ => name(names, *class),
    };
    if classes.is_empty() { vec![NONE.into()] } else { classes.iter().map(line).collect() }
}

fn numbers(values: impl Iterator<Item = f64>, names: &[String]) -> Vec<String> {
    values
        .enumerate()
        .map(|(at, value)| format!("{} {}", name(names, at), short(value)))
        .take(LINES - 1)
        .collect()
}

fn short(value: f64) -> String {
    format!("{value:.3}")
}

/// The caption of an image without a class.
const NONE: &str = "none";

fn listed(classes: &[usize], names: &[String]) -> String {
    let names: Vec<String> = classes.iter().map(|&class| name(names, class)).collect();
    if names.is_empty() { NONE.into() } else { names.join(", ") }
}

fn name(names: &[String], class: usize) -> String {
    names.get(class).cloned().unwrap_or_else(|| class.to_string())
}
