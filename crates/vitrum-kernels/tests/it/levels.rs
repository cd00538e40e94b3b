//! All SIMD levels of this machine give the same results. The other tests run again in processes limited to each level.

use std::process::Command;

use vitrum_kernels::{bf16_level, int8_level, simd_level};

/// Set in these processes, so that they do not start more processes.
const HELD: &str = "VITRUM_SIMD";

#[test]
fn every_level_passes_the_other_tests() {
    if std::env::var_os(HELD).is_some() {
        return;
    }
    let levels: &[&str] =
        if cfg!(target_arch = "aarch64") { &["neon", "scalar"] } else { &["avx512f", "avx2+fma", "scalar"] };
    let best = levels.iter().position(|&level| level == simd_level()).expect("a known level");
    for level in &levels[best + 1..] {
        let program = std::env::current_exe().expect("this program's path");
        let args = [
            "fast_equals",
            "equals_its_definition",
            "a_packed_weight",
            "packed_layers",
            "what_follows",
            "central_differences",
            "masks",
            "almost_constant",
            "nan_is",
            "level_can_be",
            "bf16::",
        ];
        let run = Command::new(program).args(args).env(HELD, level).output().expect("this program runs");
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{level}:\n{said}");
        assert!(said.contains("65 passed"), "{level} ran other tests than meant:\n{said}");
    }
}

#[test]
fn the_level_can_be_lowered_and_unknown_names_do_nothing() {
    let Some(held) = std::env::var_os(HELD) else { return };
    assert_eq!(Some(simd_level()), held.to_str());
}

/// Set in processes limited to a level of the bf16 products.
const HELD_BF16: &str = "VITRUM_BF16";

#[test]
fn unpacked_pairs_pass_the_other_tests() {
    if [HELD, HELD_BF16].iter().any(|held| std::env::var_os(held).is_some()) || bf16_level() == simd_level() {
        return;
    }
    let program = std::env::current_exe().expect("this program's path");
    let run = Command::new(program).arg("bf16::").env(HELD_BF16, simd_level()).output().expect("it runs");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}");
    assert!(said.contains("12 passed"), "other tests than meant:\n{said}");
}

/// Set in processes limited to a level of the integer products.
const HELD_INT8: &str = "VITRUM_INT8";

#[test]
fn every_integer_level_passes_the_other_tests() {
    if std::env::var_os(HELD).is_some() || std::env::var_os(HELD_INT8).is_some() {
        return;
    }
    let levels: &[&str] = if cfg!(target_arch = "aarch64") {
        &["dotprod", "scalar"]
    } else {
        &["avx512_vnni", "avx_vnni", "avx2", "scalar"]
    };
    let best = levels.iter().position(|&level| level == int8_level()).expect("a known level");
    for level in &levels[best + 1..] {
        let program = std::env::current_exe().expect("this program's path");
        let args = ["int8_fast_equals", "nan_is_kept", "level_is_lowered"];
        let run = Command::new(program).args(args).env(HELD_INT8, level).output().expect("this program runs");
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{level}:\n{said}");
        assert!(said.contains("6 passed"), "{level} ran other tests than meant:\n{said}");
    }
}

/// A level that this processor lacks falls back to its best level.
#[test]
fn the_integer_level_is_lowered() {
    let Some(held) = std::env::var_os(HELD_INT8) else { return };
    let best_float = simd_level();
    if held == "avx_vnni" && int8_level() != "avx_vnni" {
        assert_eq!(int8_level(), if best_float == "avx512f" { "avx512_vnni" } else { "avx2" });
        return;
    }
    assert_eq!(Some(int8_level()), held.to_str());
}
