//! Experiments of papers: many runs, one report.
//!
//! ```text
//! TOML → Study → Plan (runs, in an order) → Cost → Runner → Outcome of each run → Report
//! ```
//!
//! A [`Study`] is a base recipe, groups of runs with axes, seeds, and checks: what the paper says. A [`Plan`] has one
//! recipe for each run. A run may begin from the model of an earlier run. The [`Runner`] trains what is not finished, each
//! run in a folder of its own, so that a study goes on where it stopped. A [`Report`] has a table, figures, and a verdict
//! on each check.
//!
//! Reading order: [`file`](mod@file) reads a study, [`expand`] makes recipes, [`plan`](mod@plan) orders them,
//! [`shard`] divides them among machines, [`cost`] says what they need, [`record`] recognises finished runs, [`run`]
//! trains, [`results`](mod@results) reads results, [`verdict`](mod@verdict) decides, [`report`](mod@report) writes.

mod builtin;
pub mod cost;
mod error;
pub mod expand;
pub mod file;
pub mod plan;
pub mod record;
pub mod report;
pub mod results;
pub mod run;
pub mod shard;
pub mod verdict;

pub use builtin::{BUILTIN, Head, builtin, heads};
pub use cost::{Cost, Costs, Data, Images, Speed};
pub use error::StudyError;
pub use expand::PlannedRun;
pub use file::{Check, Rule, Study, Take};
pub use plan::{Condition, Plan};
pub use record::{Record, State};
pub use report::Report;
pub use results::{Group, RunResult, results};
pub use run::{Ended, Listener, Runner, StudyEvent};
pub use shard::Shard;
pub use verdict::{Judged, Verdict};
