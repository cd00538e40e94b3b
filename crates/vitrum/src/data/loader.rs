//! Decodes and preprocesses pictures ahead of the model, in order, in bounded memory.
//!
//! One thread reads the source and gives samples to the workers in turn. Batches collect results from the workers
//! in the same turn. So the order is the source's for any number of workers. Every queue is bounded: a slow model
//! slows down the reading.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::dataset::{DatasetError, ImageSource, Sample, Skipped, Source, Target};
use super::decode::{DecodeOptions, Decoded};
use super::preprocess::{Preprocess, PreprocessError};

/// Limit of unreadable pictures. Loading stops beyond it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxBad {
    /// This number.
    Count(usize),
    /// This share of the pictures read. Checked at the end, and earlier if the number of pictures is known.
    Fraction(f64),
}

impl MaxBad {
    /// A number below 1 is a share, from 1 on a count, as in recipes and flags.
    pub fn of_number(number: f64) -> Self {
        if number < 1.0 { Self::Fraction(number) } else { Self::Count(number as usize) }
    }
}

/// Options of a [`Loader`].
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderOptions {
    /// Pictures per batch, at least 1; the last batch may be smaller.
    pub batch_size: usize,
    /// Number of decoding threads, at least 1.
    pub workers: usize,
    /// Length of the queues before and after each worker, at least 1.
    pub queue: usize,
    /// Limit of unreadable pictures. Default none.
    pub max_bad: MaxBad,
    /// Limits and orientation. The default ignores EXIF orientation, as in timm's evaluation.
    pub decode: DecodeOptions,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self { batch_size: 32, workers, queue: 8, max_bad: MaxBad::Count(0), decode: DecodeOptions::timm() }
    }
}

/// Preprocessed pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Names of the pictures.
    pub names: Vec<String>,
    /// What they are labelled with, if known.
    pub targets: Vec<Option<Target>>,
    /// Normalised pixels, `[B, C, H, W]`.
    pub values: Vec<f32>,
    /// `[B, C, H, W]`.
    pub shape: [usize; 4],
}

impl Batch {
    /// The class of each picture, if its target is one class.
    pub fn labels(&self) -> Vec<Option<usize>> {
        self.targets.iter().map(|target| target.as_ref()?.class()).collect()
    }
}

/// A picture that was left out because it is unusable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSample {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Loading failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoaderError {
    /// The source failed.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// More unreadable pictures than allowed.
    #[error(
        "{} of {seen} images cannot be used, more than allowed{}\n  hint: repair or remove them",
        bad.len(), list(bad)
    )]
    TooManyBad {
        /// The pictures.
        bad: Vec<BadSample>,
        /// Pictures looked at, including these.
        seen: usize,
    },
    /// An invalid option.
    #[error("loader: `{field}` must be {expected}")]
    Option {
        /// The option's name.
        field: &'static str,
        /// Valid values.
        expected: &'static str,
    },
    /// The preprocessing is invalid for every picture.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// A thread could not be started, or ended unexpectedly.
    #[error("loader thread: {0}")]
    Thread(String),
    /// Too few images for one batch.
    #[error("{found} images for training, fewer than a batch of {batch_size}\n  hint: a smaller batch")]
    TooFew {
        /// Images of an epoch.
        found: usize,
        /// Images of a batch.
        batch_size: usize,
    },
    /// An image could not be loaded, through no fault of the image.
    #[error("{name}: {reason}")]
    Image {
        /// The image.
        name: String,
        /// What happened.
        reason: String,
    },
}

fn list(bad: &[BadSample]) -> String {
    let mut text: String = bad.iter().take(10).map(|b| format!("\n  {}: {}", b.name, b.reason)).collect();
    if bad.len() > 10 {
        text.push_str(&format!("\n  and {} more", bad.len() - 10));
    }
    text
}

/// A worker's result for one sample.
enum LoadedSample {
    Good { name: String, target: Option<Target>, values: Vec<f32>, notes: Vec<String> },
    Bad(BadSample),
    Broken(DatasetError),
}

/// An item that the reader gives to a worker.
enum Dealt {
    Sample(Sample),
    Broken(DatasetError),
}

/// Iterator over batches; see the [module](self).
pub struct Loader {
    results: Vec<Receiver<LoadedSample>>,
    /// Index of the next worker to collect from.
    turn: usize,
    threads: Vec<JoinHandle<()>>,
    reader: Option<JoinHandle<Skipped>>,
    options: LoaderOptions,
    input_size: [usize; 3],
    classes: Vec<String>,
    num_samples: Option<usize>,
    seen: usize,
    bad: Vec<BadSample>,
    faults: Vec<BadSample>,
    ended: bool,
    skipped: Skipped,
}

impl Loader {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`LoaderError`] if an option or the preprocessing is invalid, or a thread cannot be started.
    pub fn new(
        source: Box<dyn Source>,
        preprocess: Preprocess,
        options: LoaderOptions,
    ) -> Result<Self, LoaderError> {
        check(&options)?;
        preprocess.check()?;
        let (input_size, classes) = (preprocess.input_size, source.classes().to_vec());
        let mut loader = Self {
            results: Vec::new(),
            turn: 0,
            threads: Vec::new(),
            reader: None,
            input_size,
            classes,
            num_samples: source.count(),
            seen: 0,
            bad: Vec::new(),
            faults: Vec::new(),
            ended: false,
            skipped: source.skipped().clone(),
            options,
        };
        loader.start(source, &preprocess).map_err(|error| LoaderError::Thread(error.to_string()))?;
        Ok(loader)
    }

    fn start(&mut self, source: Box<dyn Source>, preprocess: &Preprocess) -> std::io::Result<()> {
        let mut dealers = Vec::new();
        for worker in 0..self.options.workers {
            let (dealer, dealt) = sync_channel(self.options.queue);
            let (sender, results) = sync_channel(self.options.queue);
            let (preprocess, decode) = (preprocess.clone(), self.options.decode.clone());
            let builder = std::thread::Builder::new().name(format!("load-{worker}"));
            self.threads.push(builder.spawn(move || work(&dealt, &sender, &preprocess, &decode))?);
            dealers.push(dealer);
            self.results.push(results);
        }
        let builder = std::thread::Builder::new().name("load-read".into());
        self.reader = Some(builder.spawn(move || deal(source, &dealers))?);
        Ok(())
    }

    /// The class names of the source.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Number of samples of the source, if known.
    pub fn num_samples(&self) -> Option<usize> {
        self.num_samples
    }

    /// Number of pictures looked at so far, including unreadable ones.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// The unreadable pictures so far.
    pub fn bad(&self) -> &[BadSample] {
        &self.bad
    }

    /// Pictures read so far whose files have faults.
    pub fn faults(&self) -> &[BadSample] {
        &self.faults
    }

    /// Entries that the source left out; complete after the last batch.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// Choices made while reading so far, for the user.
    pub fn notes(&self) -> &[String] {
        &self.skipped.notes
    }

    fn next_batch(&mut self) -> Result<Option<Batch>, LoaderError> {
        let [channels, height, width] = self.input_size;
        let mut batch = Batch {
            names: Vec::new(),
            targets: Vec::new(),
            values: Vec::new(),
            shape: [0, channels, height, width],
        };
        while batch.names.len() < self.options.batch_size {
            // Samples are given in turn, so the first worker without a result is at the end.
            let Ok(loaded) = self.results[self.turn].recv() else {
                self.finish()?;
                break;
            };
            self.turn = (self.turn + 1) % self.results.len();
            match loaded {
                LoadedSample::Good { name, target, values, notes } => {
                    self.seen += 1;
                    if !notes.is_empty() {
                        self.faults.push(BadSample { name: name.clone(), reason: notes.join("; ") });
                    }
                    batch.names.push(name);
                    batch.targets.push(target);
                    batch.values.extend(values);
                }
                LoadedSample::Bad(bad) => {
                    self.seen += 1;
                    self.bad.push(bad);
                    self.check_bad(false)?;
                }
                LoadedSample::Broken(error) => return Err(error.into()),
            }
        }
        batch.shape[0] = batch.names.len();
        Ok((!batch.names.is_empty()).then_some(batch))
    }

    fn check_bad(&mut self, at_end: bool) -> Result<(), LoaderError> {
        let allowed = match (self.options.max_bad, self.num_samples) {
            (MaxBad::Count(count), _) => count,
            (MaxBad::Fraction(share), _) if at_end => (share * self.seen as f64) as usize,
            (MaxBad::Fraction(share), Some(count)) => (share * count as f64) as usize,
            (MaxBad::Fraction(_), None) => return Ok(()),
        };
        if self.bad.len() <= allowed {
            return Ok(());
        }
        Err(LoaderError::TooManyBad { bad: self.bad.clone(), seen: self.seen })
    }

    /// Joins the reader. Its result tells whether all samples arrived.
    fn finish(&mut self) -> Result<(), LoaderError> {
        self.ended = true;
        let Some(reader) = self.reader.take() else { return Ok(()) };
        self.skipped = reader.join().map_err(|_| LoaderError::Thread("the reader panicked".into()))?;
        self.check_bad(true)
    }
}

fn check(options: &LoaderOptions) -> Result<(), LoaderError> {
    let wrong = |field, expected| Err(LoaderError::Option { field, expected });
    match options {
        LoaderOptions { batch_size: 0, .. } => wrong("batch_size", "at least 1"),
        LoaderOptions { workers, .. } if !(1..=1024).contains(workers) => wrong("workers", "from 1 to 1024"),
        LoaderOptions { queue, .. } if !(1..=65_536).contains(queue) => wrong("queue", "from 1 to 65536"),
        LoaderOptions { max_bad: MaxBad::Fraction(share), .. } if !(0.0..=1.0).contains(share) => {
            wrong("max_bad", "a share from 0 to 1")
        }
        _ => Ok(()),
    }
}

/// The reading thread: sample i goes to worker i modulo their number.
fn deal(mut source: Box<dyn Source>, dealers: &[SyncSender<Dealt>]) -> Skipped {
    for dealer in dealers.iter().cycle() {
        let dealt = match source.next_sample() {
            Ok(Some(sample)) => Dealt::Sample(sample),
            Ok(None) => break,
            Err(error) => {
                // Sending fails only after the receiver is gone.
                let _ = dealer.send(Dealt::Broken(error));
                break;
            }
        };
        if dealer.send(dealt).is_err() {
            break;
        }
    }
    source.skipped().clone()
}

/// A worker thread. Ends when either channel closes.
fn work(
    dealt: &Receiver<Dealt>,
    results: &SyncSender<LoadedSample>,
    preprocess: &Preprocess,
    decode: &DecodeOptions,
) {
    for dealt in dealt {
        let loaded = match dealt {
            Dealt::Sample(sample) => load(sample, preprocess, decode),
            Dealt::Broken(error) => LoadedSample::Broken(error),
        };
        if results.send(loaded).is_err() {
            return;
        }
    }
}

fn load(sample: Sample, preprocess: &Preprocess, decode: &DecodeOptions) -> LoadedSample {
    let Sample { name, target, image } = sample;
    let values = catch_unwind(AssertUnwindSafe(|| values(image, preprocess, decode)));
    match values.unwrap_or_else(|_| Err("its preprocessing panicked".into())) {
        Ok((values, notes)) => LoadedSample::Good { name, target, values, notes },
        Err(reason) => LoadedSample::Bad(BadSample { name, reason }),
    }
}

type Values = (Vec<f32>, Vec<String>);

fn values(image: ImageSource, preprocess: &Preprocess, options: &DecodeOptions) -> Result<Values, String> {
    let Decoded { image, notes } = image.decode_noting(options)?;
    Ok((preprocess.apply(&image).map_err(|error| error.to_string())?, notes))
}

impl Iterator for Loader {
    type Item = Result<Batch, LoaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let batch = self.next_batch();
        self.ended |= batch.is_err();
        batch.transpose()
    }
}

impl Drop for Loader {
    /// Closes the channels and waits for the threads.
    fn drop(&mut self) {
        self.results.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
