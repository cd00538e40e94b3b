//! What signals do to a process that listens for them.

#[allow(dead_code)] // the dashboard's part of it
#[path = "../../src/signals.rs"]
mod source;

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const LISTENER: &str = "VITRUM_TEST_LISTENER";

/// What the process that gets the signals does; nothing when run as a test.
#[test]
fn listener() {
    if std::env::var_os(LISTENER).is_none() {
        return;
    }
    let signals = source::Signals::install().expect("listening");
    let say = |text: &str| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{text}").and_then(|()| out.flush()).expect("a pipe");
    };
    say("ready");
    let (begun, mut stopping) = (Instant::now(), false);
    while begun.elapsed() < Duration::from_secs(30) {
        if signals.take_save() {
            say("save");
        }
        if signals.stop() && !stopping {
            stopping = true;
            say("stop");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Listener {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Listener {
    fn start() -> Self {
        Self::started_by(Command::new(std::env::current_exe().expect("this binary")))
    }

    fn started_by(mut command: Command) -> Self {
        let mut child = command
            .args(["signals::listener", "--exact", "--nocapture", "--test-threads=1"])
            .env(LISTENER, "1")
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut listener = Self { child, lines };
        listener.says("ready");
        listener
    }

    fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &command]).status().expect("a shell");
        assert!(sent.success(), "{command}");
    }

    /// Waits for a line.
    fn says(&mut self, text: &str) {
        assert!(
            self.lines.by_ref().any(|line| line.expect("text") == text),
            "the child ended without '{text}'"
        );
    }

    fn ends(mut self, code: i32) {
        assert_eq!(self.child.wait().expect("a child").code(), Some(code));
    }
}

#[test]
fn the_first_asks_to_stop_and_the_second_ends() {
    for (first, second, code) in [("INT", "INT", 130), ("TERM", "TERM", 143), ("INT", "TERM", 143)] {
        let mut listener = Listener::start();
        listener.signal(first);
        listener.says("stop");
        listener.signal(second);
        listener.ends(code);
    }
}

#[test]
fn a_hangup_asks_to_stop_and_never_ends_the_process_by_itself() {
    let mut listener = Listener::start();
    listener.signal("HUP");
    listener.says("stop");
    listener.signal("HUP");
    listener.signal("USR1");
    listener.says("save");
    listener.signal("TERM");
    listener.ends(143);
}

#[test]
fn a_hangup_that_nohup_ignores_stays_ignored() {
    let mut nohup = Command::new("nohup");
    nohup.arg(std::env::current_exe().expect("this binary"));
    let mut listener = Listener::started_by(nohup);
    listener.signal("HUP");
    listener.signal("USR1");
    listener.says("save");
    listener.signal("USR1");
    let mut until_saved =
        listener.lines.by_ref().map(|line| line.expect("text")).take_while(|line| line != "save");
    assert!(!until_saved.any(|line| line == "stop"));
    listener.signal("KILL");
    listener.child.wait().expect("a child");
}

#[test]
fn a_checkpoint_may_be_asked_for_again_and_again() {
    let mut listener = Listener::start();
    for _ in 0..3 {
        listener.signal("USR1");
        listener.says("save");
    }
    listener.signal("TERM");
    listener.says("stop");
    listener.signal("TERM");
    listener.ends(143);
}
