//! Scores of several classes per image and of numbers, against scikit-learn's documented examples and by hand.

use vitrum::tasks::evaluate::{Multilabel, Regression, average_precision};

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "{found} and {expected}");
}

#[test]
fn average_precision_is_scikit_learns() {
    let of = |scores: &[f64], truth: &[bool]| {
        let pairs: Vec<(f64, bool)> = scores.iter().copied().zip(truth.iter().copied()).collect();
        average_precision(&pairs)
    };
    // The example of `average_precision_score`: 0.8333.
    near(of(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]).unwrap(), 0.5 + 0.5 * 2.0 / 3.0);
    // Equal scores are one threshold: recall 0 to 1 at a precision of 2 / 4.
    near(of(&[0.5; 4], &[true, false, false, true]).unwrap(), 0.5);
    // Order does not matter, a later tie does: 1/3 · 1 + 2/3 · 3/4.
    near(of(&[0.2, 0.9, 0.2, 0.2], &[true, true, false, true]).unwrap(), 1.0 / 3.0 + 2.0 / 3.0 * 0.75);
    near(of(&[3.0, -1.0], &[true, true]).unwrap(), 1.0);
    assert_eq!(of(&[3.0, -1.0], &[false, false]), None);
}

#[test]
fn scores_of_several_classes_by_hand() {
    let mut scores = Multilabel::default();
    assert_eq!(scores.scores(), None);
    // Decided for: {0}, {0, 1}, {}. The third class is nobody's.
    scores.add(&[2.0, -1.0, -3.0], &[0]);
    scores.add(&[1.0, 0.5, -1.0], &[1]);
    scores.add(&[-1.0, -0.5, 0.0], &[0]);
    let found = scores.scores().unwrap();
    assert_eq!(found.images, 3);
    // Class 0: logits 2, 1, -1 of which the first and the third are true. Class 1: the only true one is first.
    near(found.map, (0.5 * (1.0 + 2.0 / 3.0) + 1.0) / 2.0);
    // Right 2 (0 of the first, 1 of the second), too many 1, missed 1. A probability of exactly 0.5 is a no.
    near(found.f1, 4.0 / 6.0);
    near(found.exact, 1.0 / 3.0);
    let term =
        |x: f64, y: f64| -(y * (1.0 / (1.0 + (-x).exp())).ln() + (1.0 - y) * (1.0 / (1.0 + x.exp())).ln());
    let terms = [
        term(2.0, 1.0) + term(-1.0, 0.0) + term(-3.0, 0.0),
        term(1.0, 0.0) + term(0.5, 1.0) + term(-1.0, 0.0),
        term(-1.0, 1.0) + term(-0.5, 0.0) + term(0.0, 0.0),
    ];
    near(found.loss, terms.iter().sum::<f64>() / 9.0);
}

#[test]
fn several_classes_at_the_edges() {
    // Nothing to find, nothing found.
    let mut none = Multilabel::default();
    none.add(&[-1.0, -2.0], &[]);
    let found = none.scores().unwrap();
    assert!(found.map.is_nan() && found.f1 == 0.0 && found.exact == 1.0, "{found:?}");
    // Large logits do not overflow, NaN is not hidden.
    let mut large = Multilabel::default();
    large.add(&[1e5, -1e5], &[0]);
    assert_eq!(large.scores().unwrap().loss, 0.0);
    large.add(&[-1e5, f64::NAN], &[0]);
    assert!(large.scores().unwrap().loss.is_nan());
}

#[test]
fn scores_of_numbers_are_scikit_learns() {
    // The examples of `r2_score`, `mean_absolute_error`, `mean_squared_error` with two outputs.
    let truth: [[f32; 2]; 3] = [[0.5, 1.0], [-1.0, 1.0], [7.0, -6.0]];
    let found = [[0.0, 2.0], [-1.0, 2.0], [8.0, -5.0]];
    let mut scores = Regression::default();
    assert_eq!(scores.scores(), None);
    for (found, truth) in found.iter().zip(&truth) {
        scores.add(found, truth);
    }
    let scores = scores.scores().unwrap();
    near(scores.mae, 0.75);
    near(scores.rmse, (4.25_f64 / 6.0).sqrt());
    assert!((scores.r2 - (0.965_437_788 + 0.908_163_265) / 2.0).abs() < 1e-8, "{scores:?}");
    // `r2_score([3, -0.5, 2, 7], [2.5, 0.0, 2, 8])` is 0.948…, wherever the numbers lie.
    for offset in [0.0, 4096.0] {
        let mut one = Regression::default();
        for (truth, found) in [(3.0, 2.5), (-0.5, 0.0), (2.0, 2.0), (7.0, 8.0)] {
            one.add(&[found + f64::from(offset)], &[truth + offset]);
        }
        let r2 = one.scores().unwrap().r2;
        assert!((r2 - 0.948_608_137).abs() < 1e-8, "{r2}");
    }
}

#[test]
fn numbers_that_are_all_equal() {
    let r2 = |answers: [f64; 2]| {
        let mut scores = Regression::default();
        answers.iter().for_each(|answer| scores.add(&[*answer], &[3.0]));
        scores.scores().unwrap().r2
    };
    assert_eq!((r2([3.0, 3.0]), r2([3.0, 4.0])), (1.0, 0.0));
    assert!(r2([3.0, f64::NAN]).is_nan());
}
