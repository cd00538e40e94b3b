//! Every SIMD level of this machine gives the same answers: the other tests again, in processes held to each.

use std::process::Command;

use vitrum_kernels::simd_level;

/// Set in those processes, so that they do not start more.
const HELD: &str = "VITRUM_SIMD";

#[test]
fn every_level_passes_the_other_tests() {
    if std::env::var_os(HELD).is_some() {
        return;
    }
    let levels = ["avx512f", "avx2+fma", "scalar"];
    let best = levels.iter().position(|&level| level == simd_level()).expect("a known level");
    for level in &levels[best + 1..] {
        let program = std::env::current_exe().expect("this program's path");
        let args = [
            "fast_equals",
            "equals_its_definition",
            "central_differences",
            "masks",
            "almost_constant",
            "nan_is",
            "level_can_be",
        ];
        let run = Command::new(program).args(args).env(HELD, level).output().expect("this program runs");
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{level}:\n{said}");
        assert!(said.contains("20 passed"), "{level} ran other tests than meant:\n{said}");
    }
}

#[test]
fn the_level_can_be_lowered_and_unknown_names_do_nothing() {
    let Some(held) = std::env::var_os(HELD) else { return };
    assert_eq!(Some(simd_level()), held.to_str());
}
