//! Verdicts on numbers made up.

use vitrum::study::verdict::{judge, pooled_error, quantile};
use vitrum::study::{Group, Verdict};

use super::{plan, result};

/// Conditions `a`, `b`, `c`, `p-1`, `p-2`, `q-1`, `q-2`, with three seeds.
const RUNS: &str = r#"
[[runs]]
[[runs.axis]]
name = "what"
values = ["a", "b", "c", "p-1", "p-2", "q-1", "q-2"]
"#;

/// The verdict on a check, with the values of conditions.
fn verdict(check: &str, values: &[(&str, &[f64])]) -> Verdict {
    let check = format!("{RUNS}\n[[check]]\nclaim = \"c\"\nsource = \"s\"\n{check}");
    let plan = plan("seeds = [1, 2, 3]", &check);
    let results: Vec<_> = values
        .iter()
        .flat_map(|(name, values)| {
            let plan = &plan;
            (1..)
                .zip(values.iter())
                .map(move |(seed, value)| result(plan, &format!("{name}-s{seed}"), *value))
        })
        .collect();
    judge(&plan, &results)[0].verdict
}

use Verdict::{Agrees, Disagrees, NotDecided};

const BETTER: &str = "kind = \"better\"\na = \"a\"\nb = \"b\"\nby = 2";

#[test]
fn better_by_more_than_chance() {
    let b = ("b", &[50.0, 51.0, 52.0][..]);
    // Deviations of 1: the standard error is 0.816, chance reaches 1.741.
    assert_eq!(verdict(BETTER, &[("a", &[60.0, 61.0, 62.0]), b]), Agrees);
    assert_eq!(verdict(BETTER, &[("a", &[53.8, 54.8, 55.8]), b]), Agrees, "3.8 - 2 is more than 1.741");
    assert_eq!(verdict(BETTER, &[("a", &[53.7, 54.7, 55.7]), b]), NotDecided);
    assert_eq!(verdict(BETTER, &[("a", &[50.3, 51.3, 52.3]), b]), NotDecided);
    assert_eq!(verdict(BETTER, &[("a", &[50.2, 51.2, 52.2]), b]), Disagrees, "2 - 0.2 is more than 1.741");
    assert_eq!(verdict(BETTER, &[("a", &[40.0, 41.0, 42.0]), b]), Disagrees);
}

#[test]
fn one_value_each_decides_nothing() {
    assert_eq!(verdict(BETTER, &[("a", &[90.0]), ("b", &[10.0])]), NotDecided);
    assert_eq!(verdict(BETTER, &[("a", &[90.0, 90.0, 90.0])]), NotDecided, "b is missing");
    assert_eq!(verdict(BETTER, &[]), NotDecided);
    assert_eq!(verdict(BETTER, &[("a", &[90.0, 91.0]), ("b", &[10.0])]), Agrees, "one deviation for both");
    assert_eq!(verdict(BETTER, &[("a", &[f64::NAN, 90.0]), ("b", &[10.0])]), NotDecided, "NaN is no value");
}

#[test]
fn not_worse_has_room_below() {
    let rule = "kind = \"not_worse\"\na = \"a\"\nb = \"b\"\nby = 2";
    let b = ("b", &[50.0, 51.0, 52.0][..]);
    assert_eq!(verdict(rule, &[("a", &[50.0, 51.0, 52.0]), b]), Agrees);
    assert_eq!(verdict(rule, &[("a", &[49.0, 50.0, 51.0]), b]), NotDecided);
    assert_eq!(verdict(rule, &[("a", &[46.0, 47.0, 48.0]), b]), Disagrees);
}

#[test]
fn the_same_within_a_limit() {
    let rule = "kind = \"same\"\na = [\"a\", \"b\", \"c\"]\nwithin = 3";
    let values = |c: f64| {
        let near = |x: f64| [x - 1.0, x, x + 1.0];
        verdict(rule, &[("a", &near(50.0)), ("b", &near(50.5)), ("c", &near(c))])
    };
    assert_eq!(values(51.0), Agrees);
    assert_eq!(values(52.0), NotDecided);
    assert_eq!(values(56.0), Disagrees, "one pair that differs is enough");
}

#[test]
fn the_best_of_several_counts_or_every_pair() {
    let near = |x: f64| [x - 0.1, x, x + 0.1];
    let values = [
        ("p-1", &near(50.0)[..]),
        ("p-2", &near(60.0)[..]),
        ("q-1", &near(40.0)[..]),
        ("q-2", &near(55.0)[..]),
    ];
    let rule = |every: &str| format!("kind = \"better\"\na = \"p-*\"\nb = \"q-*\"\n{every}");
    assert_eq!(verdict(&rule(""), &values), Agrees, "60 and 55");
    assert_eq!(verdict(&rule("every = true"), &values), Disagrees, "50 and 55");
    assert_eq!(verdict(&rule(""), &values[..3]), NotDecided, "the best may be the missing one");
    let all = "kind = \"better\"\na = \"p-2\"\nb = \"*-*\"\nevery = true";
    assert_eq!(verdict(all, &values), Agrees, "p-2 is not compared with itself");
}

#[test]
fn lines_cross() {
    let near = |x: f64| [x - 0.1, x, x + 0.1];
    let rule = "kind = \"crosses\"\na = \"p-{at}\"\nb = \"q-{at}\"\nat = [\"1\", \"2\"]";
    let values = |p: [f64; 2], q: [f64; 2]| {
        let (p, q) = (p.map(near), q.map(near));
        verdict(rule, &[("p-1", &p[0]), ("p-2", &p[1]), ("q-1", &q[0]), ("q-2", &q[1])])
    };
    assert_eq!(values([40.0, 60.0], [50.0, 55.0]), Agrees);
    assert_eq!(values([40.0, 54.0], [50.0, 55.0]), Disagrees);
    assert_eq!(values([55.0, 60.0], [50.0, 55.0]), Disagrees);
    assert_eq!(values([40.0, 55.0], [50.0, 55.0]), NotDecided);
}

#[test]
fn a_smaller_loss_is_better() {
    let check = "[[check]]\nclaim = \"c\"\nsource = \"s\"\nkind = \"better\"\na = \"a\"\nb = \"b\"";
    let plan = plan("seeds = [1, 2]\nmetric = \"loss\"", &format!("{RUNS}{check}"));
    let mut results: Vec<_> =
        ["a-s1", "a-s2", "b-s1", "b-s2"].iter().map(|id| result(&plan, id, 50.0)).collect();
    for (result, loss) in results.iter_mut().zip([0.5, 0.51, 0.9, 0.91]) {
        let last = result.finished.last.as_mut().expect("an epoch");
        last.validation.model = Some(vitrum::train::score::Scores::from([("loss", loss)]));
    }
    let judged = &judge(&plan, &results)[0];
    assert_eq!(judged.verdict, Agrees);
    let difference = judged.comparisons[0].difference.expect("a difference");
    assert!((difference - 0.4).abs() < 1e-12, "{difference}");
}

/// `scipy.stats.t.ppf(0.95, df)`, and `scipy.stats.ttest_ind`'s standard error of samples with equal variance.
#[test]
fn the_statistics_are_scipys() {
    for (freedom, value) in [
        (1, 6.313_751_514_675_04),
        (2, 2.919_985_580_353_73),
        (4, 2.131_846_786_326_65),
        (10, 1.812_461_122_811_68),
        (22, 1.717_144_374_380_24),
        (30, 1.697_260_886_593_96),
    ] {
        let found = quantile(freedom).expect("a quantile");
        assert!((found - value).abs() < 1e-6, "{freedom}: {found}");
    }
    assert_eq!(quantile(0), None);
    assert_eq!(quantile(1000), quantile(30));
    let group = |values: &[f64]| Group { values: values.to_vec() };
    let (error, reach) = pooled_error(&group(&[50.1, 51.7, 52.4]), &group(&[48.0, 49.5])).expect("values");
    assert!((error - 1.041_499_986_664_53).abs() < 1e-12, "{error}");
    assert!((reach - 2.353_363_434_801_82 * error).abs() < 1e-5, "{reach}");
    assert!(pooled_error(&group(&[1.0]), &group(&[2.0])).is_none());
    assert!(pooled_error(&group(&[1.0, 2.0]), &group(&[])).is_none());
}
