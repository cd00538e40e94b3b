//! Runs that are killed, stopped or cut off go on, and end in the same bytes.

use std::process::{Child, Stdio};
use std::time::Duration;

use crate::sandbox::Sandbox;

/// Nine updates with everything random on, a checkpoint after each.
const TRAIN: &str = "train demo:60 -m test_vit --img-size 32 --model-kwargs patch_size=8 embed_dim=16 depth=2 num_heads=2 \
    --epochs 3 --warmup-epochs 1 -b 16 --lr 2e-3 --aa rand-m9-mstd0.5-inc1 --reprob 0.25 --mixup 0.2 --cutmix 1 \
    --drop-path 0.1 --model-ema --model-ema-decay 0.9 --checkpoint-every 1steps --checkpoint-hist 2 --experiment run";

const MODEL: &str = "runs/classify/run/model/model.safetensors";

fn unbroken() -> Vec<u8> {
    let sandbox = Sandbox::empty();
    sandbox.ok(TRAIN);
    std::fs::read(sandbox.path(MODEL)).expect("a model")
}

fn begin(sandbox: &Sandbox) -> Child {
    let mut command = sandbox.command(TRAIN.split_whitespace());
    command.args(["--resume", "auto"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("vitrum starts")
}

/// Goes on to the end; the model it leaves.
fn go_on(sandbox: &Sandbox) -> Vec<u8> {
    sandbox.ok(&format!("{TRAIN} --resume auto"));
    std::fs::read(sandbox.path(MODEL)).expect("a model")
}

/// How many times a run is cut off: more by hand, as in `VITRUM_KILLS=50`.
fn times(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Delays that are no multiple of anything a run does.
fn delay(i: u64) -> Duration {
    Duration::from_micros(20_000 + (i * 7_919_317) % 500_000)
}

/// Cuts runs off with `cut`, which tells whether it came in time, lets them go on, cuts again; whenever one ends its
/// model must be the unbroken run's. Until so many cuts came in time.
fn cut_off(times: u64, cut: impl Fn(u64, &mut Child) -> bool) {
    let expected = unbroken();
    let mut sandbox = Sandbox::empty();
    let mut landed = 0;
    for i in 0..20 * times {
        if landed == times {
            break;
        }
        let mut child = begin(&sandbox);
        std::thread::sleep(delay(i));
        if cut(i, &mut child) {
            landed += 1;
        } else {
            assert!(go_on(&sandbox) == expected, "cut {i}: other weights");
            sandbox = Sandbox::empty();
        }
    }
    assert!(go_on(&sandbox) == expected, "other weights");
    assert_eq!(landed, times, "cuts that came while a run was under way");
}

#[test]
fn killed_at_any_moment() {
    cut_off(times("VITRUM_KILLS", 5), |_, child| {
        let ended = child.try_wait().expect("a state").is_some();
        child.kill().expect("a kill, or a child that is gone");
        child.wait().expect("an end");
        !ended
    });
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_stops() {
    cut_off(times("VITRUM_SIGNALS", 4), |i, child| {
        let signal = ["TERM", "INT", "HUP"][i as usize % 3];
        let sent = std::process::Command::new("kill")
            .args([format!("-{signal}"), child.id().to_string()])
            .stderr(Stdio::null())
            .status();
        sent.expect("`kill` is on every unix");
        let code = child.wait().expect("an end").code();
        // Before the run listens a signal ends it as any program; after its end it is too late.
        assert!(matches!(code, Some(75 | 0) | None), "cut {i}, {signal}: {code:?}");
        code == Some(75)
    });
}

#[test]
fn nothing_to_go_on_from() {
    let sandbox = Sandbox::empty();
    sandbox.fails(&format!("{TRAIN} --resume"), 1, &["runs/classify/run", "hint:"]);
    sandbox.fails(&format!("{TRAIN} --resume nowhere"), 1, &["nowhere"]);
}

/// Another process has the run.
#[test]
fn one_run_one_process() {
    let sandbox = Sandbox::empty();
    let mut child = begin(&sandbox);
    let lock = sandbox.path("runs/classify/run/checkpoints/.lock");
    for _ in 0..500 {
        if lock.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let second = sandbox.run(&format!("{TRAIN} --resume auto"));
    let first = child.wait().expect("an end").code();
    assert_eq!(first, Some(0));
    // Either it came while the first had the run, or the first had ended.
    assert!(
        second.code == 0 || second.err.contains("another process") || second.err.contains("process "),
        "{}",
        second.err
    );
}
