//! Differences of numbers, where NaN is the largest.

/// The largest of some differences. NaN is infinite, so that no bar is above it.
pub fn largest<T: Into<f64>>(gaps: impl IntoIterator<Item = T>) -> f64 {
    gaps.into_iter().map(Into::into).fold(0.0, |most: f64, gap: f64| match gap.is_nan() {
        true => f64::INFINITY,
        false => most.max(gap),
    })
}

#[test]
fn nan_is_above_every_bar() {
    assert_eq!(largest([0.25, 0.5_f32, 0.125]), 0.5);
    for place in 0..3 {
        let mut gaps = [0.25, 0.5, 0.125];
        gaps[place] = f64::NAN;
        assert_eq!(largest(gaps), f64::INFINITY);
    }
    assert_eq!(largest::<f64>([]), 0.0);
}
