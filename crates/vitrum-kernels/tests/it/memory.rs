//! Attention stores no `[B, A, T, T]` scores, neither forward nor backward.

use std::process::Command;

use burn::tensor::{DType, Device};
use vitrum_kernels::attention;

use crate::support::random;

/// Set in the measured process. Without it, the peak would be that of all tests together.
const MEASURED: &str = "VITRUM_TEST_MEASURE_MEMORY";

const TOKENS: usize = 4096;
const HEADS: usize = 4;
const HEAD_DIM: usize = 16;

#[test]
fn no_scores_are_kept() {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: peak memory is read from /proc");
        return;
    }
    if std::env::var_os(MEASURED).is_some() {
        let grown = forward_and_backward();
        println!("grown by {grown} kB");
        return;
    }
    let program = std::env::current_exe().expect("this program's path");
    let args = ["no_scores_are_kept", "--nocapture"];
    let run = Command::new(program).args(args).env(MEASURED, "1").output().expect("this program runs");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}");
    let grown = said.split("grown by ").nth(1).and_then(|rest| rest.split(' ').next());
    let grown: usize = grown.and_then(|number| number.parse().ok()).expect("the measured growth");
    let scores = HEADS * TOKENS * TOKENS * 4 / 1024; // kB of one tensor of scores
    assert!(grown < scores / 10, "peak memory grew by {grown} kB; one tensor of scores takes {scores} kB");
}

/// Growth of the peak of resident memory in kB.
fn forward_and_backward() -> usize {
    let device = Device::flex().autodiff();
    let qkv = random([1, TOKENS, 3 * HEADS * HEAD_DIM], 1.0, 1, &device, DType::F32).require_grad();
    let before = peak();
    let grads = attention(qkv.clone(), HEADS, 0.25, None).sum().backward();
    assert_eq!(qkv.grad(&grads).expect("a gradient").dims(), qkv.dims());
    peak() - before
}

fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line VmHWM");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of kB")
}
