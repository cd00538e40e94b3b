//! Whether results agree with what a paper says.
//!
//! A comparison of two conditions has a difference `d` of means, positive if `a` is better, and its standard error from the
//! pooled deviation of the seeds:
//!
//! ```text
//! s² = (squares of a + squares of b) / (n_a + n_b - 2)     squares: Σ (value - mean)²
//! se = s · sqrt(1/n_a + 1/n_b)
//! reach = t · se      t: 95 % quantile of Student's t with n_a + n_b - 2 degrees of freedom
//! ```
//!
//! `d > limit` agrees if `d - limit > reach`, disagrees if `limit - d > reach`, and is not decided in between, nor with a
//! single value on each side. Of several comparisons that must all be true, one that disagrees decides; all must agree.
//!
//! The deviation is that of seeds alone. Images of validation are the same for every run of a seed.

use serde::Serialize;

use super::file::{Check, Rule};
use super::plan::Plan;
use super::results::{Group, RunResult, group, measure};
use crate::train::score::Better;

/// Whether results agree with a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// They agree.
    Agrees,
    /// They disagree.
    Disagrees,
    /// The seeds do not decide, or runs are missing.
    NotDecided,
}

impl Verdict {
    /// The verdict if all of these must be true.
    fn all(verdicts: impl IntoIterator<Item = Self>) -> Self {
        verdicts.into_iter().fold(Self::Agrees, |all, one| match (all, one) {
            (Self::Disagrees, _) | (_, Self::Disagrees) => Self::Disagrees,
            (Self::NotDecided, _) | (_, Self::NotDecided) => Self::NotDecided,
            _ => Self::Agrees,
        })
    }
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// The condition.
    pub name: String,
    /// Mean of its values.
    pub mean: Option<f64>,
    /// Their deviation.
    pub deviation: Option<f64>,
    /// How many there are.
    pub count: usize,
}

/// Two conditions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The condition that is compared.
    pub a: Side,
    /// The one it is compared with.
    pub b: Side,
    /// Difference of the means, positive if `a` is better; `None` if one has no value.
    pub difference: Option<f64>,
    /// Its standard error; `None` below three values.
    pub error: Option<f64>,
    /// `t` times the standard error: how far chance reaches.
    pub reach: Option<f64>,
    /// What the difference is compared with.
    pub limit: f64,
    /// Whether this comparison is as the check says.
    pub verdict: Verdict,
}

/// A check with its verdict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// The check.
    pub check: Check,
    /// The verdict.
    pub verdict: Verdict,
    /// The comparisons.
    pub comparisons: Vec<Comparison>,
}

/// 95 % quantiles of Student's t for 1, 2, … degrees of freedom (one side).
const QUANTILES: [f64; 30] = [
    6.313_752, 2.919_986, 2.353_363, 2.131_847, 2.015_048, 1.943_180, 1.894_579, 1.859_548, 1.833_113,
    1.812_461, 1.795_885, 1.782_288, 1.770_933, 1.761_310, 1.753_050, 1.745_884, 1.739_607, 1.734_064,
    1.729_133, 1.724_718, 1.720_743, 1.717_144, 1.713_872, 1.710_882, 1.708_141, 1.705_618, 1.703_288,
    1.701_131, 1.699_127, 1.697_261,
];

/// The 95 % quantile of Student's t; beyond 30 degrees of freedom that of 30, which is at most 3 % too large.
pub fn quantile(freedom: usize) -> Option<f64> {
    freedom.checked_sub(1).map(|at| QUANTILES[at.min(QUANTILES.len() - 1)])
}

/// Standard error of the difference of two means, and how far chance reaches.
pub fn pooled_error(a: &Group, b: &Group) -> Option<(f64, f64)> {
    if a.count() == 0 || b.count() == 0 {
        return None;
    }
    let freedom = a.count() + b.count() - 2;
    let t = quantile(freedom)?;
    let variance = (a.squares() + b.squares()) / freedom as f64;
    let error = (variance * (1.0 / a.count() as f64 + 1.0 / b.count() as f64)).sqrt();
    Some((error, t * error))
}

/// How a difference is compared with the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    /// It is above the limit.
    Above(f64),
    /// Its size is at most the limit.
    Within(f64),
}

impl Bound {
    fn limit(self) -> f64 {
        match self {
            Self::Above(limit) | Self::Within(limit) => limit,
        }
    }

    /// How far the difference is on the right side.
    fn margin(self, difference: f64) -> f64 {
        match self {
            Self::Above(limit) => difference - limit,
            Self::Within(limit) => limit - difference.abs(),
        }
    }
}

/// The results of a plan, for comparisons.
struct Values<'a> {
    plan: &'a Plan,
    groups: Vec<Group>,
}

/// The verdicts on the checks of a study.
pub fn judge(plan: &Plan, results: &[RunResult]) -> Vec<Judged> {
    let groups = (0..plan.conditions.len()).map(|condition| group(plan, results, condition)).collect();
    let values = Values { plan, groups };
    plan.study.checks.iter().map(|check| values.judged(check)).collect()
}

impl Values<'_> {
    fn judged(&self, check: &Check) -> Judged {
        let comparisons: Vec<Comparison> = match &check.rule {
            Rule::Better { a, b, by, every } => self.ordered(a, b, *every, Bound::Above(*by)),
            Rule::NotWorse { a, b, by, every } => self.ordered(a, b, *every, Bound::Above(-by)),
            Rule::Same { a, b, within } => {
                let pairs = match b.is_empty() {
                    true => {
                        let found = self.found(a);
                        let all = found.as_slice();
                        let later = |at: usize| all[at + 1..].iter().map(move |&b| (all[at], b));
                        (0..all.len()).flat_map(later).collect()
                    }
                    false => pairs(&self.found(a), &self.found(b)),
                };
                pairs.into_iter().map(|(a, b)| self.compared(a, b, Bound::Within(*within))).collect()
            }
            Rule::Crosses { a, b, at } => {
                let found = |pattern: &str, at: &str| self.plan.matching(&pattern.replace("{at}", at));
                let one = |over: &str, under: &str, at: &str| {
                    self.best_of(&found(over, at), &found(under, at), Bound::Above(0.0))
                };
                [one(b, a, &at[0]), one(a, b, &at[1])].into_iter().flatten().collect()
            }
        };
        let verdict = match comparisons.is_empty() {
            true => Verdict::NotDecided,
            false => Verdict::all(comparisons.iter().map(|comparison| comparison.verdict)),
        };
        Judged { check: check.clone(), verdict, comparisons }
    }

    /// Comparisons of `a` with `b`: every pair, or the best of both.
    fn ordered(&self, a: &[String], b: &[String], every: bool, bound: Bound) -> Vec<Comparison> {
        let over = self.found(a);
        let under: Vec<usize> = self.found(b).into_iter().filter(|other| !over.contains(other)).collect();
        if every {
            return pairs(&over, &under).into_iter().map(|(a, b)| self.compared(a, b, bound)).collect();
        }
        self.best_of(&over, &under, bound).into_iter().collect()
    }

    /// The best of some conditions beside the best of others. While a condition has no value, nothing is decided.
    fn best_of(&self, over: &[usize], under: &[usize], bound: Bound) -> Option<Comparison> {
        let (a, b) = self.best(over).zip(self.best(under))?;
        let compared = self.compared(a, b, bound);
        let is_whole = over.iter().chain(under).all(|&condition| self.groups[condition].count() > 0);
        let verdict = if is_whole { compared.verdict } else { Verdict::NotDecided };
        Some(Comparison { verdict, ..compared })
    }

    /// The conditions that patterns match, each once.
    fn found(&self, patterns: &[String]) -> Vec<usize> {
        let mut all: Vec<usize> = Vec::new();
        for condition in patterns.iter().flat_map(|pattern| self.plan.matching(pattern)) {
            if !all.contains(&condition) {
                all.push(condition);
            }
        }
        all
    }

    /// The best of some conditions; a condition without a value is the worst.
    fn best(&self, conditions: &[usize]) -> Option<usize> {
        let worth = |condition: usize| {
            self.groups[condition].mean().map_or(f64::NEG_INFINITY, |mean| self.signed(condition, mean))
        };
        // The first of equals.
        conditions.iter().copied().rev().max_by(|&a, &b| worth(a).total_cmp(&worth(b)))
    }

    /// A value, negative where smaller is better.
    fn signed(&self, condition: usize, value: f64) -> f64 {
        match measure(self.plan, condition).1 {
            Better::Higher => value,
            Better::Lower => -value,
        }
    }

    fn compared(&self, a: usize, b: usize, bound: Bound) -> Comparison {
        let side = |condition: usize| {
            let group = &self.groups[condition];
            let name = self.plan.conditions[condition].name.clone();
            Side { name, mean: group.mean(), deviation: group.deviation(), count: group.count() }
        };
        let (left, right) = (side(a), side(b));
        let difference = left.mean.zip(right.mean).map(|(x, y)| self.signed(a, x) - self.signed(b, y));
        let error = pooled_error(&self.groups[a], &self.groups[b]);
        let verdict = match (difference, error) {
            (Some(difference), Some((_, reach))) => match bound.margin(difference) {
                margin if margin > reach => Verdict::Agrees,
                margin if -margin > reach => Verdict::Disagrees,
                _ => Verdict::NotDecided,
            },
            _ => Verdict::NotDecided,
        };
        let (error, reach) = (error.map(|error| error.0), error.map(|error| error.1));
        Comparison { a: left, b: right, difference, error, reach, limit: bound.limit(), verdict }
    }
}

fn pairs(a: &[usize], b: &[usize]) -> Vec<(usize, usize)> {
    a.iter().flat_map(|&a| b.iter().map(move |&b| (a, b))).filter(|(a, b)| a != b).collect()
}
