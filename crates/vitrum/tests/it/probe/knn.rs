//! Nearest neighbours against scikit-learn's `KNeighborsClassifier`.

use std::collections::BTreeMap;

use burn::tensor::Device;
use serde::Deserialize;
use vitrum::probe::knn::neighbours;
use vitrum::probe::{Features, Knn, Metric, Part, ProbeError};

use super::{classes, clouds, golden_json, set, values};

#[derive(Deserialize)]
struct Case {
    images: usize,
    queries: usize,
    dim: usize,
    classes: usize,
    rounded: bool,
    labels: Vec<usize>,
    k: Vec<ByK>,
}

#[derive(Deserialize)]
struct ByK {
    k: usize,
    euclidean: Answers,
    cosine: Answers,
}

#[derive(Deserialize)]
struct Answers {
    classes: Vec<usize>,
    /// Whether no other image is as near as the last neighbour.
    clear: Vec<bool>,
    /// Sums of the distances to the neighbours.
    distances: Vec<f64>,
    rule: Vec<usize>,
}

#[test]
fn classes_and_distances_are_those_of_scikit_learn() {
    let cases: BTreeMap<String, Case> = golden_json("knn.json");
    let device = Device::flex();
    let (mut compared, mut ties) = (0, 0);
    for (name, case) in &cases {
        let train = values(&format!("{name}.train"), case.images, case.dim, case.rounded);
        let mut val = values(&format!("{name}.val"), case.queries, case.dim, case.rounded);
        if name == "ties" {
            val[3 * case.dim..4 * case.dim].fill(0.0); // a query of length 0
        }
        let train = set(Part::Train, case.dim, train, case.labels.clone());
        let val = set(Part::Validation, case.dim, val, vec![0; case.queries]);
        assert_eq!(case.labels.iter().max(), Some(&(case.classes - 1)));
        for by_k in &case.k {
            for (metric, theirs) in [(Metric::Euclidean, &by_k.euclidean), (Metric::Cosine, &by_k.cosine)] {
                let what = format!("{name} k={} {}", by_k.k, metric.name());
                let near = neighbours(&train, &val, by_k.k, metric, &device).unwrap();
                for (near, expected) in near.iter().zip(&theirs.distances) {
                    let sum: f64 = near.iter().map(|neighbour| neighbour.distance).sum();
                    assert!((sum - expected).abs() < 1e-6, "{what}: {sum} {expected}");
                    assert!(near.is_sorted_by(|a, b| a.distance <= b.distance), "{what}");
                }
                let ours = Knn::default().classes(&train, &val, by_k.k, metric, &device).unwrap();
                for (query, ours) in ours.into_iter().enumerate() {
                    if metric == Metric::Euclidean {
                        assert_eq!(ours, theirs.rule[query], "{what}: query {query}, the rule");
                    }
                    if theirs.clear[query] {
                        assert_eq!(ours, theirs.classes[query], "{what}: query {query}");
                        compared += 1;
                    } else {
                        ties += 1;
                    }
                }
            }
        }
    }
    assert!(compared > 300 && ties > 20, "{compared} {ties}");
}

/// The blocks of products and the candidates that they leave give what comparing everything gives.
#[test]
fn blocks_leave_out_no_neighbour() {
    let device = Device::flex();
    let (n, m, dim) = (4500, 1100, 3);
    for (key, far) in [("near", 0.0), ("far", 1000.0)] {
        // Far from the origin, products in f32 cannot tell neighbours apart.
        let shifted = |key: &str, count: usize| -> Vec<f32> {
            values(key, count, dim, false).into_iter().map(|value| value + far).collect()
        };
        let train = set(Part::Train, dim, shifted(&format!("{key}.train"), n), vec![0; n]);
        let val = set(Part::Validation, dim, shifted(&format!("{key}.val"), m), vec![0; m]);
        let found = neighbours(&train, &val, 7, Metric::Euclidean, &device).unwrap();
        assert_eq!(found.len(), m);
        for query in [0, 1, 500, 1023, 1024, 1099] {
            let distance = |image: usize| -> f64 {
                let pairs = val.row(query).iter().zip(train.row(image));
                pairs.map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum::<f64>().sqrt()
            };
            let mut all: Vec<(f64, usize)> = (0..n).map(|image| (distance(image), image)).collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let ours: Vec<usize> = found[query].iter().map(|neighbour| neighbour.index).collect();
            let theirs: Vec<usize> = all[..7].iter().map(|(_, image)| *image).collect();
            assert_eq!(ours, theirs, "{key} {query}");
        }
    }
}

#[test]
fn many_equal_images_take_the_first() {
    let (n, dim) = (5000, 2);
    let train = set(Part::Train, dim, vec![1.5; n * dim], (0..n).map(|image| image % 3).collect());
    let val = set(Part::Validation, dim, vec![1.5, 1.5, -3.0, 0.25], vec![0, 1]);
    for metric in [Metric::Euclidean, Metric::Cosine] {
        let found = neighbours(&train, &val, 4, metric, &Device::flex()).unwrap();
        for near in found {
            let indexes: Vec<usize> = near.iter().map(|neighbour| neighbour.index).collect();
            assert_eq!(indexes, [0, 1, 2, 3], "{metric:?}");
        }
    }
}

#[test]
fn rows_have_scores_and_settings() {
    let features = clouds(8, 6, 5, 0.02);
    let rows = Knn::default().rows(&features, &Device::flex()).unwrap();
    let settings: Vec<&str> = rows.iter().map(|row| row.setting.as_str()).collect();
    let expected = [
        "k=1 cosine T=0.07",
        "k=5 cosine T=0.07",
        "k=20 cosine T=0.07",
        "k=1 euclidean",
        "k=5 euclidean",
        "k=20 euclidean",
    ];
    assert_eq!(settings, expected);
    assert!(rows.iter().all(|row| row.method == "knn" && row.images == 48 && row.top1_std.is_none()));
    assert_eq!(rows[3].top1, 100.0, "the clouds are far apart");
    let five: Vec<bool> = rows.iter().map(|row| row.top5.is_some()).collect();
    assert_eq!(five, [false, true, true, false, true, true], "one neighbour has one answer");
}

#[test]
fn wrong_numbers_are_refused() {
    let features = clouds(3, 2, 4, 0.1);
    let rows = |knn: Knn| knn.rows(&features, &Device::flex()).unwrap_err().to_string();
    assert_eq!(rows(Knn { k: vec![1, 7], ..Knn::default() }), "k is 7, but there are 6 training images");
    assert!(
        rows(Knn { k: vec![0], ..Knn::default() }).contains("expected numbers of neighbours of at least 1")
    );
    assert!(rows(Knn { k: vec![], ..Knn::default() }).starts_with("k is []"));
    for temperature in [0.0, -1.0, f64::NAN] {
        let error = rows(Knn { k: vec![1], temperature, ..Knn::default() });
        assert!(error.ends_with("expected a number above 0"), "{error}");
    }
    let other = set(Part::Validation, 3, vec![0.0; 3], vec![0]);
    let error = neighbours(&features.train, &other, 1, Metric::Cosine, &Device::flex()).unwrap_err();
    assert!(matches!(error, ProbeError::Dim { found: 3, expected: 4 }), "{error}");
    // Sharp votes do not overflow: the nearest alone decides.
    let sharp = Knn { k: vec![5], temperature: 1e-9, ..Knn::default() };
    let one = Knn { k: vec![1], ..Knn::default() };
    let classes = |knn: &Knn, k| {
        knn.classes(&features.train, &features.val, k, Metric::Cosine, &Device::flex()).unwrap()
    };
    assert_eq!(classes(&sharp, 5), classes(&one, 1));
}

#[test]
fn features_of_ones_own_are_checked() {
    let good = clouds(3, 2, 4, 0.1);
    let new = |values: Vec<f32>, labels: Vec<usize>| {
        let names = (0..2).map(|image| format!("{image}.png")).collect();
        vitrum::probe::FeatureSet::new(Part::Validation, 2, values, labels, names)
    };
    let error = new(vec![0.0, 1.0, f32::NAN, 2.0], vec![0, 1]).unwrap_err().to_string();
    assert!(error.starts_with("validation image 1.png: its features are not finite"), "{error}");
    assert!(matches!(new(vec![0.0; 3], vec![0, 1]), Err(ProbeError::Shape { .. })));
    assert!(matches!(new(vec![0.0; 4], vec![0]), Err(ProbeError::Shape { .. })));
    let error = Features::new(good.train.clone(), good.val.clone(), classes(2)).unwrap_err();
    assert!(matches!(error, ProbeError::Label { label: 2, classes: 2, .. }), "{error}");
    let alike = set(Part::Train, 4, good.train.values().to_vec(), vec![1; 6]);
    let error = Features::new(alike, good.val, classes(3)).unwrap_err();
    assert_eq!(error.to_string(), "every training image is of class 1, expected two classes at least");
}
