//! Full-screen view of a run: progress, curves, numbers, the last lines of the log.
//!
//! The loop's events change a [`Board`]. A thread draws it a few times a second and reads keys. `q` or Ctrl-C asks
//! the run to save and stop; a second Ctrl-C ends the program at once. The terminal is restored in every case.

use std::collections::VecDeque;
use std::io::{self, Stderr};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::prelude::CrosstermBackend;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Axis, Block, BorderType, Chart, Dataset, Gauge, GraphType, LegendPosition, Paragraph, Row, Table,
};
use ratatui::{Frame, Terminal};
use vitrum::train::log::{EpochSummary, EvalLine, Event, History, Started, Step, TrainLine, Watch, text};
use vitrum::train::score::Validation;

use crate::output;

/// Number of log lines kept.
const LINES: usize = 200;
/// Number of lines that stay on the terminal after the dashboard.
const FAREWELL: usize = 12;
/// Largest number of points of a curve, about the dots of a wide screen.
const POINTS: usize = 400;
/// Time between two drawings.
const PERIOD: Duration = Duration::from_millis(200);
/// Colours of the scores; further scores get the last one.
const SCORES: [Color; 2] = [Color::Yellow, Color::DarkGray];
/// Exit code after a second Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Whether the dashboard uses the terminal.
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// The dashboard of a run.
pub struct Dashboard {
    board: Arc<Mutex<Board>>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dashboard {
    /// Takes the terminal on stderr. `q` and Ctrl-C set `stop`.
    pub fn start(stop: Arc<AtomicBool>) -> Result<Self> {
        restore_on_panic();
        let terminal = enter().inspect_err(|_| leave()).context("--tui: the terminal cannot be used")?;
        let board = Arc::new(Mutex::new(Board::new(stop)));
        let done = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (board, done) = (Arc::clone(&board), Arc::clone(&done));
            move || show(terminal, &board, &done)
        });
        Ok(Self { board, done, thread: Some(thread) })
    }
}

impl Watch for Dashboard {
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        locked(&self.board).event(event);
        ControlFlow::Continue(())
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panicked thread has already printed its message.
            let _ = thread.join();
        }
        leave();
        let board = locked(&self.board);
        let first = board.log.len().saturating_sub(FAREWELL);
        board.log.iter().skip(first).for_each(output::complain);
    }
}

/// Locks the board and ignores poisoning: the board of a panicked thread is still worth showing.
fn locked(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

fn enter() -> io::Result<Terminal<CrosstermBackend<Stderr>>> {
    ACTIVE.store(true, Ordering::SeqCst);
    enable_raw_mode()?;
    execute!(io::stderr(), EnterAlternateScreen)?;
    Terminal::new(CrosstermBackend::new(io::stderr()))
}

/// Restores the terminal, once.
fn leave() {
    if ACTIVE.swap(false, Ordering::SeqCst) {
        // If the terminal is gone, nothing can be done.
        let _ = disable_raw_mode();
        let _ = execute!(io::stderr(), LeaveAlternateScreen, ratatui::crossterm::cursor::Show);
    }
}

/// Restores the terminal on a panic, so that its message is readable.
fn restore_on_panic() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            leave();
            before(panic);
        }));
    });
}

fn show(mut terminal: Terminal<CrosstermBackend<Stderr>>, board: &Mutex<Board>, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) && ACTIVE.load(Ordering::SeqCst) {
        // An error of drawing must not end a run.
        let _ = terminal.draw(|frame| {
            let board = locked(board);
            board.draw(frame, board.begun.elapsed());
        });
        if event::poll(PERIOD).unwrap_or_else(|_| {
            std::thread::sleep(PERIOD);
            false
        }) && let Ok(Input::Key(key)) = event::read()
        {
            react(key, &locked(board).stop);
        }
    }
}

fn react(key: KeyEvent, stop: &AtomicBool) {
    if key.kind == KeyEventKind::Release {
        return;
    }
    let interrupt = (key.code, key.modifiers) == (KeyCode::Char('c'), KeyModifiers::CONTROL);
    if !interrupt && !matches!(key.code, KeyCode::Char('q' | 'Q')) {
        return;
    }
    let asked_before = stop.swap(true, Ordering::SeqCst);
    if interrupt && asked_before {
        leave();
        std::process::exit(INTERRUPTED);
    }
}

/// The state on screen.
struct Board {
    started: Started,
    history: History,
    step: Step,
    eval: Option<EvalLine>,
    best: Option<(f64, usize)>,
    log: VecDeque<String>,
    finished: bool,
    stop: Arc<AtomicBool>,
    begun: Instant,
}

impl Board {
    fn new(stop: Arc<AtomicBool>) -> Self {
        Self {
            started: Started::default(),
            history: History::default(),
            step: Step::default(),
            eval: None,
            best: None,
            log: VecDeque::new(),
            finished: false,
            stop,
            begun: Instant::now(),
        }
    }

    fn event(&mut self, event: &Event) {
        self.history.event(event);
        match event {
            Event::Started(started) => {
                self.step.update = started.updates_done;
                self.step.epoch = started.epochs_done;
                self.step.batches = started.batches;
                self.started = started.clone();
                self.begun = Instant::now();
            }
            Event::Step(step) => {
                self.step = step.clone();
                self.eval = None;
            }
            Event::Eval(line) => self.eval = Some(line.clone()),
            Event::Epoch(summary) => self.epoch(summary),
            Event::Finished(_) => self.finished = true,
            _ => (),
        }
        self.log.extend(text::lines(event));
        let surplus = self.log.len().saturating_sub(LINES);
        self.log.drain(..surplus);
    }

    fn epoch(&mut self, summary: &EpochSummary) {
        self.eval = None;
        let Started { eval_metric, better, .. } = &self.started;
        let scores = summary.validation.decisive();
        let Some(value) = scores.and_then(|scores| scores.get(eval_metric)).filter(|value| !value.is_nan())
        else {
            return;
        };
        if self.best.is_none_or(|(best, _)| better.improves(value, best)) {
            self.best = Some((value, summary.epoch));
        }
    }

    fn status(&self) -> &'static str {
        match (self.finished, self.stop.load(Ordering::Relaxed), &self.eval) {
            (true, ..) => "done",
            (false, true, _) => "stopping: the run is saved",
            (false, false, Some(line)) if line.ema => "validating the moving average",
            (false, false, Some(_)) => "validating",
            (false, false, None) => "training",
        }
    }

    /// Number of updates of the whole run.
    fn total(&self) -> u64 {
        (self.started.epochs * self.started.batches) as u64
    }

    /// Estimated remaining seconds, at the mean speed of this process.
    fn left(&self, elapsed: Duration) -> Option<f64> {
        let done = self.step.update.checked_sub(self.started.updates_done).filter(|done| *done > 0)?;
        let left = self.total().saturating_sub(self.step.update);
        Some(elapsed.as_secs_f64() / done as f64 * left as f64)
    }

    fn draw(&self, frame: &mut Frame, elapsed: Duration) {
        let [head, gauges, charts, bottom, foot] = Layout::vertical([
            Constraint::Length(4),
            Constraint::Length(4),
            Constraint::Fill(3),
            Constraint::Fill(2),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.draw_head(frame, head);
        self.draw_gauges(frame, gauges, elapsed);
        let [left, right] = Layout::horizontal([Constraint::Fill(1); 2]).areas(charts);
        self.draw_loss(frame, left);
        self.draw_scores(frame, right);
        let [left, right] = Layout::horizontal([Constraint::Length(38), Constraint::Fill(1)]).areas(bottom);
        self.draw_numbers(frame, left);
        self.draw_log(frame, right);
        frame.render_widget(Paragraph::new(" q  save and stop").style(faint()), foot);
    }

    fn draw_head(&self, frame: &mut Frame, area: Rect) {
        let Started { model, params, data, train_images, classes, numbers, run, .. } = &self.started;
        let noun = if *numbers { "numbers" } else { "classes" };
        let color = if self.stop.load(Ordering::Relaxed) { Color::Yellow } else { Color::Green };
        let first = Line::from(vec![
            Span::styled(model.clone(), Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!("  {:.2} M params   ", *params as f64 / 1e6)),
            Span::styled(self.status(), Style::new().fg(color)),
        ]);
        let second = format!("{data}  {train_images} images, {classes} {noun}   {}", run.display());
        let lines = vec![first, Line::styled(second, faint())];
        frame.render_widget(Paragraph::new(lines).block(panel("vitrum")), area);
    }

    fn draw_gauges(&self, frame: &mut Frame, area: Rect, elapsed: Duration) {
        let block = panel("progress");
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let [upper, lower] = Layout::vertical([Constraint::Length(1); 2]).areas(inner);
        let (done, of) = match &self.eval {
            Some(line) => (line.batch + 1, line.batches),
            None if self.step.update == self.started.updates_done => (0, self.step.batches),
            None => (self.step.batch + 1, self.step.batches),
        };
        let what = if self.eval.is_some() { "validation" } else { "epoch" };
        let label = format!("{what} {}/{}: {done}/{of}", self.step.epoch + 1, self.started.epochs);
        frame.render_widget(gauge(Color::Cyan, share(done as f64, of as f64), label), upper);
        let left = self.left(elapsed).map_or("-".into(), text::duration);
        let label = format!(
            "total {}/{}: {} so far, {left} left",
            self.step.update,
            self.total(),
            text::duration(elapsed.as_secs_f64())
        );
        let part = share(self.step.update as f64, self.total() as f64);
        frame.render_widget(gauge(Color::Blue, part, label), lower);
    }

    fn draw_loss(&self, frame: &mut Frame, area: Rect) {
        let at = |line: &TrainLine| line.epoch as f64 + share((line.batch + 1) as f64, line.batches as f64);
        let train = self.history.train.iter().map(|line| (at(line), line.loss)).collect();
        let curves = [
            ("train".into(), Color::Blue, train),
            ("validation".into(), Color::Yellow, self.by_epoch(|v| v.model_score("loss"))),
            ("EMA".into(), Color::Green, self.by_epoch(|v| v.ema_score("loss"))),
        ];
        draw_chart(frame, area, "loss", LegendPosition::TopRight, &curves);
    }

    fn draw_scores(&self, frame: &mut Frame, area: Rect) {
        let names: Vec<&str> = self.score_names().into_iter().filter(|name| *name != "loss").collect();
        let curve = |(index, name): (usize, &&str)| {
            let color = SCORES[index.min(SCORES.len() - 1)];
            (text::score_name(name), color, self.by_epoch(|v| v.model_score(name)))
        };
        let mut curves: Vec<Curve> = names.iter().enumerate().map(curve).collect();
        if let Some(first) = names.first() {
            curves.push(("EMA".into(), Color::Green, self.by_epoch(|v| v.ema_score(first))));
        }
        let is_accuracy = names.iter().all(|name| text::score_name(name) != **name);
        let title = if is_accuracy { "validation accuracy, %" } else { "validation scores" };
        draw_chart(frame, area, title, LegendPosition::BottomRight, &curves);
    }

    /// The names of the scores; none before the first epoch's end.
    fn score_names(&self) -> Vec<&str> {
        let last = self.history.epochs.last();
        last.map_or(Vec::new(), |s| s.validation.names.iter().map(String::as_str).collect())
    }

    fn by_epoch(&self, score: impl Fn(&Validation) -> Option<f64>) -> Vec<(f64, f64)> {
        let point = |s: &EpochSummary| Some((s.epoch as f64 + 1.0, score(&s.validation)?));
        self.history.epochs.iter().filter_map(point).collect()
    }

    fn draw_numbers(&self, frame: &mut Frame, area: Rect) {
        let mut rows: Vec<(String, String)> = Vec::new();
        if let Some((best, epoch)) = self.best {
            let name = text::score_name(&self.started.eval_metric);
            rows.push((format!("best {name}"), format!("{best:.3} (epoch {epoch})")));
        }
        if let Some(last) = self.history.epochs.last() {
            let names: Vec<&str> = self.score_names().into_iter().filter(|name| *name != "loss").collect();
            let row = |name: String, value: Option<f64>| Some((name, format!("{:.3}", value?)));
            for name in &names {
                rows.extend(row(text::score_name(name), last.validation.model_score(name)));
            }
            if let Some(first) = names.first() {
                let name = format!("EMA {}", text::score_name(first));
                rows.extend(row(name, last.validation.ema_score(first)));
            }
        }
        if let Some(line) = self.history.train.last() {
            rows.push((
                "loss".into(),
                format!("{} (mean {})", text::three_digits(line.loss), text::three_digits(line.loss_avg)),
            ));
            rows.push(("learning rate".into(), text::exponential(line.lr, 3)));
            rows.push((
                "images/s".into(),
                format!("{:.1} (mean {:.1})", line.images_per_second, line.images_per_second_avg),
            ));
            rows.push((
                "update".into(),
                format!("{:.3} s, data {:.3} s", line.step_seconds_avg, line.data_seconds_avg),
            ));
            rows.extend(line.grad_norm.map(|norm| ("gradient norm".into(), text::three_digits(norm))));
            rows.extend(line.memory_mb.map(|memory| ("memory".into(), format!("{memory:.0} MB"))));
        }
        let rows = rows.into_iter().map(|(name, value)| Row::new([name, value]));
        let table = Table::new(rows, [Constraint::Length(14), Constraint::Fill(1)]);
        frame.render_widget(table.block(panel("now")), area);
    }

    fn draw_log(&self, frame: &mut Frame, area: Rect) {
        let room = usize::from(area.height.saturating_sub(2));
        let first = self.log.len().saturating_sub(room);
        let lines: Vec<Line> = self.log.iter().skip(first).map(|line| Line::raw(line.as_str())).collect();
        frame.render_widget(Paragraph::new(lines).block(panel("log")), area);
    }
}

fn faint() -> Style {
    Style::new().fg(Color::DarkGray)
}

fn panel(title: &str) -> Block<'_> {
    Block::bordered().border_type(BorderType::Rounded).border_style(faint()).title(format!(" {title} "))
}

fn gauge(color: Color, part: f64, label: String) -> Gauge<'static> {
    Gauge::default().gauge_style(Style::new().fg(color).bg(Color::Black)).ratio(part).label(label)
}

/// `part / whole`, clamped to 0 to 1.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 }
}

/// Name, colour and points `(epoch, value)`.
type Curve = (String, Color, Vec<(f64, f64)>);

fn draw_chart(frame: &mut Frame, area: Rect, title: &str, legend: LegendPosition, curves: &[Curve]) {
    let drawn: Vec<Curve> = curves
        .iter()
        .map(|(name, color, points)| (name.clone(), *color, thinned(points)))
        .filter(|(_, _, points)| !points.is_empty())
        .collect();
    if drawn.is_empty() {
        let nothing = Paragraph::new("no values yet").style(faint()).alignment(Alignment::Center);
        frame.render_widget(nothing.block(panel(title)), area);
        return;
    }
    let all = || drawn.iter().flat_map(|(_, _, points)| points);
    let [low, high] = bounds(all().map(|point| point.1));
    let end = all().fold(1.0, |end: f64, point| end.max(point.0)).ceil();
    let datasets = drawn.iter().map(|(name, color, points)| {
        let marker = if points.len() == 1 { Marker::Dot } else { Marker::Braille };
        let set = Dataset::default().name(name.as_str()).data(points).style(Style::new().fg(*color));
        set.marker(marker).graph_type(GraphType::Line)
    });
    let label = |value: f64| Line::raw(text::three_digits(value));
    let x = Axis::default()
        .bounds([0.0, end])
        .labels(["0".to_string(), format!("epoch {end:.0}")])
        .style(faint());
    let y = Axis::default().bounds([low, high]).style(faint());
    let y = y.labels([label(low), label((low + high) / 2.0), label(high)]);
    let half = Constraint::Ratio(1, 2);
    let chart = Chart::new(datasets.collect()).x_axis(x).y_axis(y).legend_position(Some(legend));
    let chart = chart.hidden_legend_constraints((half, half));
    frame.render_widget(chart.block(panel(title)), area);
}

/// Least and greatest value with a margin.
fn bounds(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    let air = (0.05 * (high - low)).max(1e-3 * high.abs()).max(1e-6);
    [low - air, high + air]
}

/// The finite points, averaged in groups if there are many.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let points: Vec<(f64, f64)> = points.iter().filter(|point| point.1.abs() < 1e15).copied().collect();
    let group = points.len().div_ceil(POINTS).max(1);
    let mean = |points: &[(f64, f64)]| {
        let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / points.len() as f64, sum.1 / points.len() as f64)
    };
    points.chunks(group).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;
    use vitrum::train::log::Finished;
    use vitrum::train::score::Scores;

    use super::*;

    fn board() -> Board {
        let mut board = Board::new(Arc::new(AtomicBool::new(false)));
        board.event(&Event::Started(Started {
            model: "vit_tiny_patch16_224".into(),
            params: 5_530_000,
            data: "flowers/".into(),
            train_images: 3670,
            classes: 5,
            epochs: 4,
            batches: 10,
            run: "runs/classify/vit".into(),
            eval_metric: "top1".into(),
            ..Started::default()
        }));
        board
    }

    fn train(board: &mut Board, updates: std::ops::RangeInclusive<u64>) {
        for update in updates {
            let (epoch, batch) = ((update as usize - 1) / 10, (update as usize - 1) % 10);
            let loss = 1.6 / update as f64;
            board.event(&Event::Step(Step { epoch, update, batch, batches: 10, loss }));
            let line =
                TrainLine { epoch, update, batch, batches: 10, loss, lr: 4.1e-4, ..TrainLine::default() };
            board.event(&Event::Train(line));
            if batch == 9 {
                let model = Some(Scores::from([("top1", 50.0 + 10.0 * epoch as f64)]));
                let validation = Validation { names: vec!["top1".into()], model, ema: None };
                board.event(&Event::Epoch(EpochSummary { epoch, validation, ..EpochSummary::default() }));
            }
        }
    }

    fn screen(board: &Board, width: u16, height: u16, seconds: u64) -> (String, Terminal<TestBackend>) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| board.draw(frame, Duration::from_secs(seconds))).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        let text = (0..height).map(|y| row(y) + "\n").collect();
        (text, terminal)
    }

    #[test]
    fn the_screen_shows_where_the_run_is() {
        let mut board = board();
        train(&mut board, 1..=15);
        let (text, terminal) = screen(&board, 100, 40, 30);
        let rows: Vec<&str> = text.lines().collect();
        assert!(rows[0].starts_with("╭ vitrum ─"), "{text}");
        assert!(rows[1].contains("vit_tiny_patch16_224  5.53 M params   training"), "{text}");
        assert!(rows[2].contains("flowers/  3670 images, 5 classes   runs/classify/vit"), "{text}");
        assert!(rows[5].contains("epoch 2/4: 5/10"), "{text}");
        assert!(rows[6].contains("total 15/40: 0:30 so far, 0:50 left"), "{text}");
        assert!(rows[39].starts_with(" q  save and stop"), "{text}");
        for part in [
            "│train│",
            "╭ loss ─",
            "╭ validation accuracy, % ─",
            "best top-1",
            "50.000 (epoch 0)",
            "4.100e-04",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(text.contains("Train: 1 [   4/10 ( 50%)]"), "{text}");
        // Half of the epoch's gauge is filled, three eighths of the whole.
        let buffer = terminal.backend().buffer();
        let filled = |y: u16| (1..99).filter(|x| buffer[(*x, y)].symbol() == "█").count();
        assert!((30..=49).contains(&filled(5)) && (20..=37).contains(&filled(6)), "{text}");
        // The curve of the loss, in its colour.
        let dots = |color: Color| {
            let cells = (8..30).flat_map(|y| (1..49).map(move |x| (x, y)));
            cells
                .filter(|at| {
                    buffer[*at].fg == color
                        && ('\u{2801}'..='\u{28ff}').contains(&buffer[*at].symbol().chars().next().unwrap())
                })
                .count()
        };
        assert!(dots(Color::Blue) > 10, "{text}");
        assert_eq!(dots(Color::Red), 0);
    }

    #[test]
    fn the_screen_follows_the_run() {
        let mut board = board();
        let (text, _) = screen(&board, 100, 30, 0);
        assert!(text.contains("no values yet") && text.contains("epoch 1/4: 0/10"), "{text}");
        assert!(text.contains("total 0/40: 0:00 so far, - left"), "{text}");
        train(&mut board, 1..=10);
        board.event(&Event::Eval(EvalLine { batch: 2, batches: 6, ema: true, ..EvalLine::default() }));
        let (text, _) = screen(&board, 100, 30, 10);
        assert!(
            text.contains("validating the moving average") && text.contains("validation 1/4: 3/6"),
            "{text}"
        );
        train(&mut board, 11..=20);
        let (text, _) = screen(&board, 100, 30, 10);
        assert!(text.contains("60.000 (epoch 1)"), "{text}");
        react(KeyEvent::new(KeyCode::Char('x'), KeyModifiers::NONE), &board.stop);
        assert!(!board.stop.load(Ordering::SeqCst));
        react(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE), &board.stop);
        assert!(board.stop.load(Ordering::SeqCst));
        let (text, _) = screen(&board, 100, 30, 10);
        assert!(text.contains("stopping: the run is saved"), "{text}");
        board.event(&Event::Finished(Finished { updates: 20, interrupted: true, ..Finished::default() }));
        let (text, _) = screen(&board, 100, 30, 10);
        assert!(text.contains("stopped after 20 updates"), "{text}");
    }

    #[test]
    fn no_size_and_no_number_is_too_odd() {
        let mut board = board();
        train(&mut board, 1..=12);
        for loss in [f64::NAN, f64::INFINITY, 1e300, -1e14] {
            board.event(&Event::Train(TrainLine { loss, lr: loss, ..TrainLine::default() }));
        }
        board.event(&Event::Note("x".repeat(10_000)));
        (0..1000).for_each(|i| board.event(&Event::Note(format!("note {i}"))));
        assert_eq!(board.log.len(), LINES);
        for width in [0, 1, 2, 5, 20, 41, 80, 300] {
            for height in [0, 1, 2, 5, 9, 13, 24, 100] {
                screen(&board, width, height, u64::from(width));
            }
        }
    }
}
