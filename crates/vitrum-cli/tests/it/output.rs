//! Where results go: pipes that close, disks that are full, places where no file can be.
#![cfg(unix)]

use std::process::{Output, Stdio};

use crate::sandbox::Sandbox;

/// Commands whose output goes to stdout, in `sandbox` with `model` and `a.png`.
const TALKERS: [&str; 13] = [
    "models list",
    "models list --format json",
    "models list --format csv",
    "models info vit_base_patch16_224 --format json",
    "models shapes",
    "completions bash",
    "version --format json",
    "checkpoint inspect model",
    "checkpoint inspect model --format json",
    "predict a.png -m model",
    "predict a.png -m model --format json",
    "predict a.png -m model --format csv",
    "embed a.png -m model",
];

fn with_stdout(sandbox: &Sandbox, args: &str, stdout: impl Into<Stdio>) -> (i32, String) {
    let mut command = sandbox.command(args.split_whitespace());
    let Output { status, stderr, .. } = command.stdout(stdout).output().expect("the binary runs");
    (status.code().unwrap_or(-1), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    for args in TALKERS {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let (code, err) = with_stdout(&sandbox, args, writer);
        assert_eq!(code, 0, "vitrum {args}: {err}");
        assert!(!err.contains("error"), "vitrum {args}: {err}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    for args in TALKERS {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let (code, err) = with_stdout(&sandbox, args, full);
        assert_eq!(code, 1, "vitrum {args}: {err}");
        assert!(err.contains("No space left on device"), "vitrum {args}: {err}");
    }
}

/// A limit on the size of files is an error with the file's name, and nothing half-written stays.
#[cfg(target_os = "linux")]
#[test]
fn a_limit_on_the_size_of_files_is_an_error() {
    let sandbox = Sandbox::new();
    let binary = sandbox.command([""; 0]).get_program().to_os_string();
    let train = "train demo:20 -m test_vit --img-size 32 --epochs 1 -b 10 --experiment big";
    for (args, file) in [("checkpoint convert model out", "out"), (train, "runs/classify/big")] {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("ulimit -f 2; exec \"$0\" {args}")]).arg(&binary);
        let output =
            shell.current_dir(sandbox.path("")).env("VITRUM_THREADS", "1").output().expect("a shell");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "vitrum {args}: {err}");
        assert!(err.contains("File too large") && err.contains(file), "vitrum {args}: {err}");
    }
    assert!(!sandbox.has("out/model.safetensors"));
}

#[test]
fn places_where_no_file_can_be() {
    use std::os::unix::fs::FileTypeExt;
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    sandbox.input("in.safetensors", [1, 3, 32, 32]);
    sandbox.ok("demo pics --count 10 --size 32");
    let (listener, pipe) = (sandbox.path("socket"), "socket");
    let _listener = std::os::unix::net::UnixListener::bind(&listener).expect("a socket");
    for (command, flag) in [
        ("forward -m model --input in.safetensors", "--output"),
        ("embed a.png -m model", "--output"),
        ("val pics -m model", "--results-file"),
    ] {
        for (place, text) in [("nowhere/x.csv", "no folder nowhere"), ("pics", "a folder"), (pipe, "regular")]
        {
            let args = format!("{command} {flag} {place}");
            sandbox.fails(&args, 1, &[&format!("writing {place}"), text]);
        }
        sandbox.fails(&format!("{command} {flag}="), 2, &[flag]);
    }
    let kind = std::fs::symlink_metadata(&listener).expect("still there").file_type();
    assert!(kind.is_socket(), "what is not a file is never replaced");
}

#[test]
fn the_input_is_not_overwritten() {
    let sandbox = Sandbox::new();
    sandbox.input("in.safetensors", [1, 3, 32, 32]);
    let before = std::fs::read(sandbox.path("in.safetensors")).expect("a file");
    sandbox.fails("forward -m model --input in.safetensors --output ./in.safetensors", 1, &["hint:"]);
    assert_eq!(std::fs::read(sandbox.path("in.safetensors")).expect("a file"), before);
}

#[test]
fn a_failed_run_leaves_an_older_file_as_it_was() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    sandbox.ok("demo pics --count 10 --size 32");
    sandbox.write("pics/disc/broken.png", "no picture");
    sandbox.write("bad.png", "no picture");
    sandbox.input("in.safetensors", [1, 4, 32, 32]);
    sandbox.write("old", "as it was");
    for args in [
        "val pics -m model --max-bad 0 --results-file old",
        "embed a.png bad.png -m model --output old",
        "forward -m model --input in.safetensors --output old",
    ] {
        sandbox.fails(args, 1, &["error: "]);
        assert_eq!(sandbox.read("old"), "as it was", "vitrum {args}");
    }
}
