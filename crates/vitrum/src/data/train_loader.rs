//! Augmented batches in an order that depends only on (seed, epoch).
//!
//! An epoch's order is a shuffle of the subset. For a stream it is the order in which a shuffle buffer returns the
//! pictures. Both are known before the first picture is read. Workers take the places of the order one after the
//! other, decode, augment, and store the results; batches are collected in order. Workers stay at most `prefetch`
//! batches ahead. Random choices for a sample depend only on (seed, epoch, index, repeat). So the number of
//! workers, the cache and the first batch of a resumed epoch change nothing.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::dataset::{DatasetError, DatasetProblem, ImageSource, Source, Target};
use super::image::RgbImage;
use super::loader::{BadSample, LoaderError, MaxBad};
use super::random::{DataRng, order_rng, sample_rng};
use super::train_set::{ImageFault, Subset, below, shuffle};

/// Turns a picture into values of the loader's shape, channel by channel, or says why the picture is unusable.
pub type Transform = dyn Fn(&RgbImage, &mut DataRng) -> Result<Vec<f32>, String> + Send + Sync;

/// Options of a [`TrainLoader`].
#[derive(Debug, Clone, PartialEq)]
pub struct TrainLoaderOptions {
    /// Pictures per batch, at least 1.
    pub batch_size: usize,
    /// Number of threads that decode and augment; 0: one per core.
    pub workers: usize,
    /// Seed of the order and of all augmentation.
    pub seed: u64,
    /// Repeated augmentation: use each picture n times in a row of the shuffled order. An epoch then holds 1/n of
    /// the pictures, so its length stays. 0: once, and an epoch has all pictures. With 1 or more, an epoch of at
    /// least 256 samples is rounded down to a multiple of 256, as in timm's `RepeatAugSampler` for one process.
    pub repeats: usize,
    /// Drop a smaller last batch.
    pub drop_last: bool,
    /// Limit of unusable pictures. Each is replaced by the next usable one in the order of the set.
    pub max_bad: MaxBad,
    /// Use only the first n batches of epoch 0, in the same order, in every epoch; 0: off.
    pub overfit_batches: usize,
    /// How many batches the workers may be ahead, at least 1.
    pub prefetch: usize,
}

impl Default for TrainLoaderOptions {
    fn default() -> Self {
        Self {
            batch_size: 32,
            workers: 0,
            seed: 42,
            repeats: 0,
            drop_last: true,
            max_bad: MaxBad::Fraction(0.001),
            overfit_batches: 0,
            prefetch: 2,
        }
    }
}

/// One batch for training.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainBatch {
    /// Indexes of its pictures, in order.
    pub indexes: Vec<u32>,
    /// What they are labelled with.
    pub targets: Vec<Target>,
    /// The transformed pictures, `[B, C, H, W]`.
    pub values: Vec<f32>,
    /// `[B, C, H, W]`.
    pub shape: [usize; 4],
}

impl TrainBatch {
    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there are no pictures.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The class of each picture, if its target is one class.
    pub fn labels(&self) -> Vec<Option<usize>> {
        self.targets.iter().map(Target::class).collect()
    }
}

/// Batches of a [`Subset`], epoch by epoch. See the [module](self).
pub struct TrainLoader {
    inner: Arc<Inner>,
}

struct Inner {
    subset: Subset,
    transform: Arc<Transform>,
    /// `[C, H, W]`.
    shape: [usize; 3],
    options: TrainLoaderOptions,
    /// Reasons by index.
    bad: Mutex<BTreeMap<u32, String>>,
}

impl TrainLoader {
    /// A loader of labelled pictures; `shape` is the `[C, H, W]` of `transform`'s results. Starts no thread.
    ///
    /// # Errors
    /// [`LoaderError`] if an option is invalid, a picture has no label, or there are too few pictures for a batch.
    pub fn new(
        subset: Subset,
        transform: Arc<Transform>,
        shape: [usize; 3],
        mut options: TrainLoaderOptions,
    ) -> Result<Self, LoaderError> {
        if options.workers == 0 {
            options.workers = std::thread::available_parallelism().map_or(1, usize::from);
        }
        check(&options)?;
        if shape.contains(&0) {
            return Err(LoaderError::Option { field: "shape", expected: "[C, H, W], at least 1 each" });
        }
        if subset.indexes().iter().any(|&index| subset.set().target(index).is_none()) {
            return Err(LoaderError::Option { field: "subset", expected: "only labelled images" });
        }
        let loader =
            Self { inner: Arc::new(Inner { subset, transform, shape, options, bad: Mutex::default() }) };
        if loader.batches_per_epoch() == 0 {
            let found = loader.inner.samples();
            return Err(LoaderError::TooFew { found, batch_size: loader.inner.options.batch_size });
        }
        Ok(loader)
    }

    /// Number of batches per epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.inner.batches()
    }

    /// Number of samples per epoch, without a dropped last batch.
    pub fn samples_per_epoch(&self) -> usize {
        self.inner.end()
    }

    /// The loaded subset.
    pub fn subset(&self) -> &Subset {
        &self.inner.subset
    }

    /// The pictures found unusable so far, in the order of the set.
    pub fn bad(&self) -> Vec<BadSample> {
        self.inner.bad_samples(&lock(&self.inner.bad))
    }

    /// The batches of an epoch from `start_batch` on, equal to those of the whole epoch. Earlier pictures are not
    /// decoded. Threads run until the last batch, or until the iterator is dropped. After an error there are no
    /// more batches.
    pub fn epoch(&self, epoch: u64, start_batch: usize) -> Epoch {
        let inner = Arc::clone(&self.inner);
        let end = inner.end();
        let next = start_batch.saturating_mul(inner.options.batch_size).min(end);
        let order = inner.order(epoch);
        let mut this = Epoch { next, end, threads: Vec::new(), failed: None, shared: None };
        match Shared::new(inner, epoch, order, next, end) {
            Ok(shared) => this.start(Arc::new(shared)),
            Err(error) => this.failed = Some(error.into()),
        }
        this
    }
}

fn check(options: &TrainLoaderOptions) -> Result<(), LoaderError> {
    let wrong = |field, expected| Err(LoaderError::Option { field, expected });
    match options {
        TrainLoaderOptions { batch_size: 0, .. } => wrong("batch_size", "at least 1"),
        TrainLoaderOptions { prefetch: 0, .. } => wrong("prefetch", "at least 1"),
        TrainLoaderOptions { workers, .. } if *workers > 1024 => wrong("workers", "at most 1024"),
        TrainLoaderOptions { max_bad: MaxBad::Fraction(share), .. } if !(0.0..=1.0).contains(share) => {
            wrong("max_bad", "a share from 0 to 1")
        }
        _ => Ok(()),
    }
}

impl Inner {
    /// Number of samples per epoch, by timm's count if pictures repeat.
    fn samples(&self) -> usize {
        match self.subset.len() {
            count if self.options.repeats > 0 && count >= 256 => count / 256 * 256,
            count => count,
        }
    }

    fn batches(&self) -> usize {
        let (samples, size) = (self.samples(), self.options.batch_size);
        let batches = if self.options.drop_last { samples / size } else { samples.div_ceil(size) };
        match self.options.overfit_batches {
            0 => batches,
            most => batches.min(most),
        }
    }

    /// The place after the last sample.
    fn end(&self) -> usize {
        self.batches().saturating_mul(self.options.batch_size).min(self.samples())
    }

    fn repeats(&self) -> usize {
        self.options.repeats.max(1)
    }

    /// The pictures of an epoch, each used [`repeats`](Self::repeats) times in a row.
    fn order(&self, epoch: u64) -> Vec<u32> {
        let epoch = if self.options.overfit_batches > 0 { 0 } else { epoch };
        let mut rng = order_rng(self.options.seed, epoch);
        let (indexes, set) = (self.subset.indexes(), self.subset.set());
        let mut order = if set.is_stream() {
            buffered(indexes, set.shuffle_buffer(), &mut rng)
        } else {
            let mut order = indexes.to_vec();
            shuffle(&mut order, &mut rng);
            order
        };
        order.truncate(self.end().div_ceil(self.repeats()));
        order
    }

    fn allowed(&self) -> usize {
        match self.options.max_bad {
            MaxBad::Count(count) => count,
            MaxBad::Fraction(share) => (share * self.subset.len() as f64) as usize,
        }
    }

    fn bad_samples(&self, bad: &BTreeMap<u32, String>) -> Vec<BadSample> {
        let sample = |(&index, reason): (&u32, &String)| BadSample {
            name: self.subset.set().name(index).to_owned(),
            reason: reason.clone(),
        };
        bad.iter().map(sample).collect()
    }

    /// Records unusable pictures.
    fn add_bad(&self, found: Vec<(u32, String)>) -> Result<(), LoaderError> {
        if found.is_empty() {
            return Ok(());
        }
        let mut bad = lock(&self.bad);
        bad.extend(found);
        if bad.len() <= self.allowed() {
            return Ok(());
        }
        Err(LoaderError::TooManyBad { bad: self.bad_samples(&bad), seen: self.subset.len() })
    }
}

/// The order in which a shuffle buffer of `size` items returns an ordered sequence.
fn buffered(indexes: &[u32], size: usize, rng: &mut DataRng) -> Vec<u32> {
    let (head, tail) = indexes.split_at(size.min(indexes.len()));
    let mut buffer = head.to_vec();
    let mut order = Vec::with_capacity(indexes.len());
    for &index in tail {
        let at = below(buffer.len() as u64, rng) as usize;
        order.push(std::mem::replace(&mut buffer[at], index));
    }
    shuffle(&mut buffer, rng);
    order.extend(buffer);
    order
}

/// The result for one place of the order.
enum LoadedImage {
    Good {
        index: u32,
        target: Target,
        values: Vec<f32>,
        bad: Vec<(u32, String)>,
    },
    /// More unusable pictures in a row than allowed.
    Bad(Vec<(u32, String)>),
    Broken(LoaderError),
}

/// Shared state of an epoch's workers.
struct Shared {
    inner: Arc<Inner>,
    epoch: u64,
    order: Vec<u32>,
    end: usize,
    stream: Option<Mutex<Stream>>,
    progress: Mutex<Cursor>,
    /// A result is ready.
    ready: Condvar,
    /// A result was taken, or the epoch is over.
    space: Condvar,
}

struct Cursor {
    /// The next place to work on.
    next: usize,
    /// The next place to hand out.
    taken: usize,
    ready: BTreeMap<usize, LoadedImage>,
    stopped: bool,
}

impl Shared {
    fn new(
        inner: Arc<Inner>,
        epoch: u64,
        order: Vec<u32>,
        next: usize,
        end: usize,
    ) -> Result<Self, DatasetError> {
        let stream = if next < end {
            let source = inner.subset.set().stream()?;
            source.map(|source| Mutex::new(Stream::new(source, &order, next, end, inner.repeats())))
        } else {
            None
        };
        let progress = Cursor { next, taken: next, ready: BTreeMap::new(), stopped: false };
        Ok(Self {
            inner,
            epoch,
            order,
            end,
            stream,
            progress: Mutex::new(progress),
            ready: Condvar::new(),
            space: Condvar::new(),
        })
    }

    /// The loop of a worker.
    fn work(&self) {
        while let Some((place, image)) = self.take() {
            let loaded = self.guarded(place, || match image {
                Ok(image) => self.load(place, image),
                Err(error) => LoadedImage::Broken(error),
            });
            let loaded = loaded.unwrap_or_else(LoadedImage::Broken);
            lock(&self.progress).ready.insert(place, loaded);
            self.ready.notify_one();
        }
    }

    /// The next place, with its picture if the set is a stream; `None` if nothing is left. Waits while the
    /// collected batches are too far behind.
    fn take(&self) -> Option<(usize, Result<Option<ImageSource>, LoaderError>)> {
        // A stream's pictures are read in the order of the places.
        let stream = self.stream.as_ref().map(lock);
        let options = &self.inner.options;
        let window = options.prefetch.saturating_mul(options.batch_size);
        let mut progress = lock(&self.progress);
        loop {
            if progress.stopped || progress.next == self.end {
                return None;
            }
            if progress.next - progress.taken < window {
                break;
            }
            progress = self.space.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        let place = progress.next;
        progress.next += 1;
        drop(progress);
        let index = self.order[place / self.inner.repeats()];
        let image = stream.map_or(Ok(None), |mut stream| {
            let image = self.guarded(place, || stream.image(index, &self.inner.subset));
            image.and_then(|image| Ok(image?))
        });
        Some((place, image))
    }

    /// The sample of a place: its own picture, or the next usable one in the order of the set.
    fn load(&self, place: usize, mut image: Option<ImageSource>) -> LoadedImage {
        let Inner { subset, transform, shape, options, .. } = &*self.inner;
        let repeats = self.inner.repeats();
        let own = self.order[place / repeats];
        let at = subset.indexes().partition_point(|&index| index < own);
        let (before, from) = subset.indexes().split_at(at);
        let mut bad = Vec::new();
        for &index in from.iter().chain(before) {
            let found = match image.take() {
                Some(image) => subset.set().decoded(index, image),
                None => subset.set().image(index),
            };
            let made = match found {
                Ok(picture) => {
                    let repeat = (place % repeats) as u64;
                    let mut rng = sample_rng(options.seed, self.epoch, own.into(), repeat);
                    transform(&picture, &mut rng)
                }
                Err(ImageFault::Bad(reason)) => Err(reason),
                Err(fault @ ImageFault::Broken(_)) => {
                    return LoadedImage::Broken(self.image_error(index, fault));
                }
            };
            match made {
                Ok(values) if values.len() == shape.iter().product::<usize>() => {
                    // `new` checked the targets.
                    let target = subset.set().target(index).cloned().unwrap_or(Target::Class(0));
                    return LoadedImage::Good { index, target, values, bad };
                }
                Ok(values) => {
                    let reason = format!("{} values, expected {shape:?}", values.len());
                    return LoadedImage::Broken(self.image_error(index, reason));
                }
                Err(reason) => bad.push((index, reason)),
            }
            if bad.len() > self.inner.allowed() {
                break;
            }
        }
        LoadedImage::Bad(bad)
    }

    fn image_error(&self, index: u32, reason: impl std::fmt::Display) -> LoaderError {
        let name = self.inner.subset.set().name(index).to_owned();
        LoaderError::Image { name, reason: reason.to_string() }
    }

    /// Turns a panic into an error, so that collecting does not wait forever.
    fn guarded<T>(&self, place: usize, work: impl FnOnce() -> T) -> Result<T, LoaderError> {
        catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            self.image_error(self.order[place / self.inner.repeats()], format_args!("panicked: {text}"))
        })
    }

    /// Waits for a place's sample.
    fn wait(&self, place: usize) -> LoadedImage {
        let mut progress = lock(&self.progress);
        loop {
            if let Some(loaded) = progress.ready.remove(&place) {
                progress.taken = place + 1;
                self.space.notify_one();
                return loaded;
            }
            progress = self.ready.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn stop(&self) {
        lock(&self.progress).stopped = true;
        self.space.notify_all();
    }
}

/// Ignores poisoning: every change is a single step, so the data stay consistent after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream that is read once in its own order, while pictures are requested in shuffle-buffer order.
struct Stream {
    source: Box<dyn Source>,
    /// Pictures read so far.
    read: u32,
    /// Remaining uses of each picture.
    uses: HashMap<u32, usize>,
    /// Pictures that were read and will be used.
    held: HashMap<u32, Vec<u8>>,
}

impl Stream {
    fn new(source: Box<dyn Source>, order: &[u32], start: usize, end: usize, repeats: usize) -> Self {
        let mut uses = HashMap::new();
        for (at, &index) in order.iter().enumerate().skip(start / repeats) {
            let (from, to) = ((at * repeats).max(start), ((at + 1) * repeats).min(end));
            uses.insert(index, to - from);
        }
        Self { source, read: 0, uses, held: HashMap::new() }
    }

    /// The encoded picture; `None` if the decoded one is in memory.
    fn image(&mut self, index: u32, subset: &Subset) -> Result<Option<ImageSource>, DatasetError> {
        let set = subset.set();
        let left = self.uses.get_mut(&index).map_or(0, |uses| {
            *uses = uses.saturating_sub(1);
            *uses
        });
        if set.kept(index).is_none() {
            while self.read <= index && !self.held.contains_key(&index) {
                self.advance(subset)?;
            }
        }
        let bytes = if left > 0 { self.held.get(&index).cloned() } else { self.held.remove(&index) };
        Ok(bytes.map(ImageSource::Encoded))
    }

    /// Reads one picture and keeps it if it will be used.
    fn advance(&mut self, subset: &Subset) -> Result<(), DatasetError> {
        let (set, at) = (subset.set(), self.read);
        let sample = self.source.next_sample()?.filter(|sample| sample.name == set.name(at));
        let Some(sample) = sample else {
            let problem = DatasetProblem::Damaged(format!("it changed: `{}` is missing", set.name(at)));
            return Err(DatasetError { path: set.path().to_path_buf(), problem });
        };
        self.read += 1;
        if let ImageSource::Encoded(bytes) = sample.image
            && self.uses.contains_key(&at)
            && set.kept(at).is_none()
        {
            self.held.insert(at, bytes);
        }
        Ok(())
    }
}

/// The batches of one epoch; see [`TrainLoader::epoch`].
pub struct Epoch {
    next: usize,
    end: usize,
    shared: Option<Arc<Shared>>,
    threads: Vec<JoinHandle<()>>,
    failed: Option<LoaderError>,
}

impl Epoch {
    fn start(&mut self, shared: Arc<Shared>) {
        let workers = shared.inner.options.workers.min(self.end - self.next);
        for worker in 0..workers {
            let name = format!("train-load-{worker}");
            let this = Arc::clone(&shared);
            match std::thread::Builder::new().name(name).spawn(move || this.work()) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => self.failed = Some(LoaderError::Thread(error.to_string())),
            }
        }
        self.shared = Some(shared);
    }

    /// Number of remaining batches.
    pub fn remaining(&self) -> usize {
        match &self.shared {
            Some(shared) => (self.end - self.next).div_ceil(shared.inner.options.batch_size),
            None => 0,
        }
    }

    fn batch(&mut self, shared: &Shared) -> Result<TrainBatch, LoaderError> {
        let inner = &shared.inner;
        let [channels, height, width] = inner.shape;
        let count = inner.options.batch_size.min(self.end - self.next);
        let mut batch = TrainBatch {
            indexes: Vec::with_capacity(count),
            targets: Vec::with_capacity(count),
            values: Vec::with_capacity(count * channels * height * width),
            shape: [count, channels, height, width],
        };
        for place in self.next..self.next + count {
            match shared.wait(place) {
                LoadedImage::Good { index, target, values, bad } => {
                    inner.add_bad(bad)?;
                    batch.indexes.push(index);
                    batch.targets.push(target);
                    batch.values.extend(values);
                }
                LoadedImage::Bad(bad) => {
                    inner.add_bad(bad)?;
                    // Every picture is bad, though the limit allows it.
                    let bad = inner.bad_samples(&lock(&inner.bad));
                    return Err(LoaderError::TooManyBad { bad, seen: inner.subset.len() });
                }
                LoadedImage::Broken(error) => return Err(error),
            }
        }
        self.next += count;
        Ok(batch)
    }

    fn close(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.stop();
        }
        for thread in self.threads.drain(..) {
            // Panics were caught in the workers.
            let _ = thread.join();
        }
    }
}

impl Iterator for Epoch {
    type Item = Result<TrainBatch, LoaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.close();
            return Some(Err(error));
        }
        let shared = self.shared.clone().filter(|_| self.next < self.end)?;
        let batch = self.batch(&shared);
        if batch.is_err() || self.next == self.end {
            self.close();
        }
        Some(batch)
    }
}

impl Drop for Epoch {
    /// Threads end after their current picture.
    fn drop(&mut self) {
        self.close();
    }
}
