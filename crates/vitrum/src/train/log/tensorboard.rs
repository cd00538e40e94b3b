//! Event files for TensorBoard.
//!
//! A file is a sequence of records, framed as in TensorFlow's `record_writer`: length (u64), masked CRC-32C of the
//! length, the bytes, their masked CRC-32C, all little-endian. The bytes are a protobuf message `tensorflow.Event`
//! (`tensorflow/core/util/event.proto`, `tensorflow/core/framework/summary.proto`). This module writes scalars and
//! pictures.
//!
//! Steps are updates. A resumed run begins a new file, and older files lose their records after the checkpoint. The new
//! file marks the restart, for a TensorBoard that has already read those records.

use std::path::{Path, PathBuf};

use super::event::Event;
use super::files::{self, Appender};
use super::folder::RunFolder;
use super::line::{EpochSummary, TrainLine};
use super::{LogError, environment};

const PREFIX: &str = "events.out.tfevents.";

/// The file being written.
#[derive(Debug)]
pub struct TensorBoard {
    file: Appender,
}

impl TensorBoard {
    /// Begins a file in the run's folder, after `updates` updates.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn open(folder: &RunFolder, updates: u64) -> Result<Self, LogError> {
        let older = event_files(folder.path())?;
        older.iter().try_for_each(|path| cut(path, updates))?;
        let mut file = Self { file: create(folder.path())? };
        let time = environment::unix_seconds();
        file.file.append(&record(&version(time)))?;
        if !older.is_empty() {
            file.file.append(&record(&restart(time, updates + 1)))?;
        }
        Ok(file)
    }

    /// Writes the numbers of an event.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn event(&mut self, event: &Event) -> Result<(), LogError> {
        match event {
            Event::Train(line) => self.scalars(line.update, &train_scalars(line)),
            Event::Epoch(summary) => {
                let values = epoch_scalars(summary);
                let values: Vec<(&str, f64)> =
                    values.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
                self.scalars(summary.updates, &values)
            }
            _ => Ok(()),
        }
    }

    /// Writes values under their tags.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), LogError> {
        self.file.append(&record(&scalars(environment::unix_seconds(), step, values)))
    }

    /// Writes a picture, encoded as PNG.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn picture(
        &mut self,
        step: u64,
        tag: &str,
        [width, height]: [u32; 2],
        png: &[u8],
    ) -> Result<(), LogError> {
        let event = picture(environment::unix_seconds(), step, tag, [width, height], png);
        self.file.append(&record(&event))
    }

    /// Forces the file to disk.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn sync(&self) -> Result<(), LogError> {
        self.file.sync()
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

fn train_scalars(line: &TrainLine) -> Vec<(&'static str, f64)> {
    let mut values = vec![
        ("train/loss", line.loss),
        ("train/lr", line.lr),
        ("train/images_per_second", line.images_per_second),
    ];
    values.extend(line.grad_norm.map(|norm| ("train/grad_norm", norm)));
    values
}

fn epoch_scalars(summary: &EpochSummary) -> Vec<(String, f64)> {
    let validation = &summary.validation;
    let mut values = vec![("train/epoch_loss".to_string(), summary.train_loss)];
    for (folder, scores) in [("eval", &validation.model), ("ema", &validation.ema)] {
        let scores = scores.iter().flat_map(|scores| scores.iter());
        values.extend(scores.map(|(name, value)| (format!("{folder}/{name}"), value)));
    }
    values.push(("epoch".to_string(), summary.epoch as f64));
    values
}

fn event_files(folder: &Path) -> Result<Vec<PathBuf>, LogError> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| LogError::io(folder, e))? {
        let entry = entry.map_err(|e| LogError::io(folder, e))?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// TensorBoard reads files in the order of their names, which begin with the seconds since 1970.
fn create(folder: &Path) -> Result<Appender, LogError> {
    let host = gethostname::gethostname().to_string_lossy().into_owned();
    let (seconds, process) = (environment::unix_seconds() as u64, std::process::id());
    let mut number = 0;
    loop {
        let path = folder.join(format!("{PREFIX}{seconds:010}.{host}.{process}.{number}"));
        match Appender::create_new(&path) {
            Err(LogError::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
                number += 1
            }
            other => return other,
        }
    }
}

/// Keeps the whole records up to a step; a new run keeps none. Removes a file that holds no record but the version.
fn cut(path: &Path, updates: u64) -> Result<(), LogError> {
    let bytes = files::read(path)?;
    let within = |event: &&[u8]| step(event).is_none_or(|step| updates > 0 && step <= updates);
    let kept: Vec<&[u8]> = records(&bytes).into_iter().filter(within).collect();
    if kept.iter().all(|event| step(event).is_none()) {
        return std::fs::remove_file(path).map_err(|e| LogError::io(path, e));
    }
    let kept: Vec<u8> = kept.into_iter().flat_map(record).collect();
    if kept == bytes { Ok(()) } else { files::replace(path, &kept) }
}

/// The messages of a file, up to the first damaged one.
pub fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some((event, rest)) = first_record(bytes) {
        found.push(event);
        bytes = rest;
    }
    found
}

fn first_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (check, rest) = rest.split_first_chunk::<4>()?;
    let len = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    if u32::from_le_bytes(*check) != masked_crc(length) || len > rest.len() {
        return None;
    }
    let (event, rest) = rest.split_at(len);
    let (check, rest) = rest.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*check) == masked_crc(event)).then_some((event, rest))
}

/// A message in its frame.
pub fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), event, &masked_crc(event).to_le_bytes()].concat()
}

/// TensorFlow's `crc32c::Mask`, for checksums of data that contains checksums.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

// Numbers of fields in `event.proto` and `summary.proto`.
const EVENT_WALL_TIME: u64 = 1;
const EVENT_STEP: u64 = 2;
const EVENT_FILE_VERSION: u64 = 3;
const EVENT_SUMMARY: u64 = 5;
const EVENT_SESSION_LOG: u64 = 7;
const SESSION_LOG_STATUS: u64 = 1;
const SESSION_LOG_START: u64 = 1;
const SUMMARY_VALUE: u64 = 1;
const VALUE_TAG: u64 = 1;
const VALUE_SIMPLE: u64 = 2;
const VALUE_IMAGE: u64 = 4;
const IMAGE_HEIGHT: u64 = 1;
const IMAGE_WIDTH: u64 = 2;
const IMAGE_COLORSPACE: u64 = 3;
const IMAGE_BYTES: u64 = 4;
const RGB: u64 = 3;

/// The first message of every file.
pub fn version(time: f64) -> Vec<u8> {
    Message::default().double(EVENT_WALL_TIME, time).bytes(EVENT_FILE_VERSION, b"brain.Event:2").0
}

/// A message that marks the records from `step` on as replaced.
fn restart(time: f64, step: u64) -> Vec<u8> {
    let log = Message::default().integer(SESSION_LOG_STATUS, SESSION_LOG_START);
    event_at(time, step).bytes(EVENT_SESSION_LOG, &log.0).0
}

/// A message with values under their tags.
pub fn scalars(time: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let summary = values.iter().fold(Message::default(), |summary, (tag, value)| {
        let value = Message::default().bytes(VALUE_TAG, tag.as_bytes()).float(VALUE_SIMPLE, *value as f32);
        summary.bytes(SUMMARY_VALUE, &value.0)
    });
    event_at(time, step).bytes(EVENT_SUMMARY, &summary.0).0
}

/// A message with a picture.
pub fn picture(time: f64, step: u64, tag: &str, [width, height]: [u32; 2], png: &[u8]) -> Vec<u8> {
    let image = Message::default()
        .integer(IMAGE_HEIGHT, height.into())
        .integer(IMAGE_WIDTH, width.into())
        .integer(IMAGE_COLORSPACE, RGB)
        .bytes(IMAGE_BYTES, png);
    let value = Message::default().bytes(VALUE_TAG, tag.as_bytes()).bytes(VALUE_IMAGE, &image.0);
    let summary = Message::default().bytes(SUMMARY_VALUE, &value.0);
    event_at(time, step).bytes(EVENT_SUMMARY, &summary.0).0
}

fn event_at(time: f64, step: u64) -> Message {
    Message::default().double(EVENT_WALL_TIME, time).integer(EVENT_STEP, step)
}

/// A protobuf message as bytes: fields of a key (`number << 3 | kind`) and a value.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    const VARINT: u64 = 0;
    const FIXED_64: u64 = 1;
    const LENGTH: u64 = 2;
    const FIXED_32: u64 = 5;

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn integer(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3 | Self::VARINT);
        self.varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.varint(field << 3 | Self::FIXED_64);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | Self::FIXED_32);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | Self::LENGTH);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }
}

/// The step of a message with values; `None` for any other message.
fn step(event: &[u8]) -> Option<u64> {
    let (mut step, mut tells, mut rest) = (0, false, event);
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        let len = match key & 7 {
            Message::VARINT => {
                let value = take_varint(&mut rest)?;
                if key >> 3 == EVENT_STEP {
                    step = value;
                }
                continue;
            }
            Message::FIXED_64 => 8,
            Message::FIXED_32 => 4,
            Message::LENGTH => usize::try_from(take_varint(&mut rest)?).ok()?,
            _ => return None,
        };
        tells |= key >> 3 == EVENT_SUMMARY;
        rest = rest.get(len..)?;
    }
    tells.then_some(step)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
