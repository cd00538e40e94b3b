//! Regression against scikit-learn's `Ridge` and big_vision's few-shot rule.

use std::collections::BTreeMap;

use serde::Deserialize;
use vitrum::probe::{Part, ProbeError, Ridge, Shots};

use super::{clouds, golden, golden_json, set, values};

#[derive(Deserialize)]
struct Case {
    images: usize,
    queries: usize,
    dim: usize,
    classes: usize,
    l2: f64,
    whiten: bool,
    bias: f64,
    labels: Vec<usize>,
    answers: Vec<usize>,
}

fn relative(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let most = theirs.iter().fold(f64::MIN_POSITIVE, |most, value| most.max(value.abs()));
    crate::compare::largest(ours.iter().zip(theirs).map(|(a, b)| (a - b).abs())) / most
}

#[test]
fn weights_are_those_of_scikit_learn_and_big_vision() {
    let cases: BTreeMap<String, Case> = golden_json("ridge.json");
    let weights = golden("ridge.safetensors");
    assert!(cases.len() >= 7);
    for (name, case) in cases {
        let train = values(&format!("{name}.train"), case.images, case.dim, false);
        let val = values(&format!("{name}.val"), case.queries, case.dim, false);
        let train = set(Part::Train, case.dim, train, case.labels);
        let val = set(Part::Validation, case.dim, val, vec![0; case.queries]);
        let ridge = Ridge { whiten: case.whiten, bias: case.bias, ..Ridge::default() };
        let all: Vec<usize> = (0..case.images).collect();
        let fitted = ridge.fit(&train, &all, case.classes, case.l2).unwrap();
        for whose in ["sklearn", "big_vision"] {
            let error = relative(&fitted.weights(), &weights[&format!("{name}.{whose}")]);
            assert!(error < 1e-9, "{name}, {whose}: {error:.2e}");
        }
        let queries: Vec<usize> = (0..case.queries).collect();
        let best =
            |scores: Vec<f64>| (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
        let answers: Vec<usize> = fitted.scores(&val, &queries).into_iter().map(best).collect();
        assert_eq!(answers, case.answers, "{name}");
    }
}

#[test]
fn more_shots_are_better_and_all_is_one_draw() {
    let features = clouds(7, 12, 10, 0.9);
    let ridge = Ridge { l2: vec![1024.0], ..Ridge::default() };
    let rows = ridge.rows(&features).unwrap();
    let told: Vec<(&str, usize, usize)> =
        rows.iter().map(|row| (row.setting.as_str(), row.draws, row.images)).collect();
    let expected = [
        ("shots=1 l2=1024", 3, 7),
        ("shots=5 l2=1024", 3, 35),
        ("shots=10 l2=1024", 3, 70),
        ("shots=all l2=1024", 1, 84),
    ];
    assert_eq!(told, expected);
    assert!(rows[3].top1 > rows[0].top1 && rows[0].top1 > 100.0 / 7.0, "{rows:?}");
    assert!(rows[0].top1_std.is_some() && rows[3].top1_std.is_none());
    assert!(rows.iter().all(|row| row.top5 > Some(row.top1)), "{rows:?}");
    // The same seed gives the same numbers, another one others.
    let scores = |ridge: &Ridge| -> Vec<(f64, Option<f64>)> {
        ridge.rows(&features).unwrap().into_iter().map(|row| (row.top1, row.top1_std)).collect()
    };
    assert_eq!(scores(&ridge), scores(&ridge));
    assert_ne!(scores(&ridge), scores(&Ridge { seed: 7, ..ridge.clone() }));
    // More shots than images: all of them, in every draw.
    let many = Ridge { shots: vec![Shots::Each(500)], ..ridge };
    let row = many.rows(&features).unwrap().remove(0);
    assert_eq!(row.images, 84);
    assert!(row.top1_std < Some(1e-9) && (row.top1 - rows[3].top1).abs() < 1e-9, "{row:?}");
}

/// Features of pure noise but one: little regularisation learns the noise. The choice sees it on held-out images.
#[test]
fn l2_is_chosen_on_held_out_images() {
    let (n, dim) = (400, 300);
    let labels: Vec<usize> = (0..n).map(|image| image % 2).collect();
    let part = |part: Part, key: &str| {
        let mut numbers = values(key, n, dim, false);
        for (row, label) in numbers.chunks_exact_mut(dim).zip(&labels) {
            row[0] += 0.8 * (2.0 * *label as f32 - 1.0);
        }
        set(part, dim, numbers, labels.clone())
    };
    let features =
        vitrum::probe::Features::new(part(Part::Train, "t"), part(Part::Validation, "v"), super::classes(2))
            .unwrap();
    let all = |l2: Vec<f64>| {
        let ridge = Ridge { shots: vec![Shots::All], l2, ..Ridge::default() };
        ridge.rows(&features).unwrap().remove(0)
    };
    let (weak, strong) = (all(vec![1e-6]), all(vec![100.0]));
    assert!(strong.top1 > weak.top1 + 3.0, "{weak:?} {strong:?}");
    let chosen = all(vec![1e-6, 100.0]);
    assert_eq!((chosen.setting.as_str(), chosen.top1), ("shots=all l2=100", strong.top1));
    // One image per class holds nothing out: the value nearest to big_vision's.
    let one = Ridge { shots: vec![Shots::Each(1)], draws: 1, l2: vec![1.0, 900.0, 1e6], ..Ridge::default() };
    assert_eq!(one.rows(&features).unwrap()[0].setting, "shots=1 l2=900");
}

#[test]
fn wrong_numbers_are_refused() {
    let features = clouds(3, 4, 4, 0.1);
    let rows = |ridge: Ridge| ridge.rows(&features).unwrap_err();
    for l2 in [vec![], vec![0.0], vec![-1.0], vec![f64::INFINITY]] {
        let error = rows(Ridge { l2, ..Ridge::default() }).to_string();
        assert!(error.ends_with("expected numbers above 0"), "{error}");
    }
    assert!(matches!(
        rows(Ridge { draws: 0, ..Ridge::default() }),
        ProbeError::Option { field: "draws", .. }
    ));
    assert!(matches!(
        rows(Ridge { shots: vec![], ..Ridge::default() }),
        ProbeError::Option { field: "shots", .. }
    ));
    assert!(matches!(
        rows(Ridge { bias: f64::NAN, ..Ridge::default() }),
        ProbeError::Option { field: "bias", .. }
    ));
    // Two equal columns and next to no regularisation: there is no answer in f64, and none is made up.
    let twice: Vec<f32> =
        features.train.values().chunks_exact(4).flat_map(|row| [row[0] * 1e9, row[0] * 1e9]).collect();
    let train = set(Part::Train, 2, twice, features.train.labels().to_vec());
    let ridge = Ridge { whiten: false, bias: 0.0, ..Ridge::default() };
    let error = ridge.fit(&train, &(0..12).collect::<Vec<_>>(), 3, 1e-300).unwrap_err();
    assert!(matches!(error, ProbeError::Singular { .. }), "{error}");
    assert!("0".parse::<Shots>().is_err() && "some".parse::<Shots>().is_err());
    assert_eq!("all".parse(), Ok(Shots::All));
}
