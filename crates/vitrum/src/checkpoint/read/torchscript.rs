//! Weights of a TorchScript program (`torch.jit.save`), without its code.
//!
//! The archive holds `data.pkl`, a pickle of the module's attributes by name, and `data/0`, `data/1`, … with the bytes of
//! the storages. [`Machine`] knows the opcodes that torch's own pickler writes and no others. An object becomes the table
//! of its attributes, whatever its class; a call makes a tensor, an empty table, or nothing.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::entry::Listing;
use super::npz::{Zip, check_archive, held, open_archive};
use super::{Limits, at_most, guarded};
use crate::checkpoint::tensors::count;
use crate::checkpoint::{Dtype, HostTensor, LoadError};

const FORMAT: &str = "TorchScript program";

/// Most bytes of `data.pkl`: a module of ten thousand tensors has about two million.
const MAX_PICKLE: u64 = 64 << 20;
/// Most attributes that are walked through.
const MAX_ATTRIBUTES: usize = 1 << 20;
/// Deepest nesting of modules and lists.
const MAX_DEPTH: usize = 100;
/// Longest path of names to a tensor.
const MAX_NAME: usize = 4096;
/// Most values that are copied because a list grows after it was kept.
const MAX_COPIED: usize = 1 << 22;

/// The tensors among a program's attributes, by the path of names that leads to them.
pub(super) fn list(path: &Path, limits: &Limits) -> Result<Listing, LoadError> {
    check_archive(path, limits)?;
    guarded(path, FORMAT, || {
        let fail = |reason: String| LoadError::format(path, FORMAT, reason);
        let mut archive = Archive::open(path)?;
        let pickle = archive.bytes("data.pkl", MAX_PICKLE)?;
        let root = Machine::run(&pickle).map_err(|reason| fail(format!("data.pkl: {reason}")))?;
        let mut walk = Walk::default();
        walk.enter(String::new(), &root).map_err(|reason| fail(format!("data.pkl: {reason}")))?;
        at_most(path, "the number of tensors", walk.found.len(), limits.tensors)?;
        let most = limits.unpacked(super::open(path)?.1);
        let total = walk.found.values().map(|view| view.bytes()).fold(0u64, u64::saturating_add);
        if total > most {
            return Err(LoadError::too_large(path, "the size of all tensors in bytes", total, most));
        }
        let mut listing = Listing::new(most);
        let file = Arc::new(path.to_path_buf());
        // Views of one storage follow on one another, so that it is read once.
        let mut views: Vec<(String, View)> = walk.found.into_iter().collect();
        views.sort_by(|(_, a), (_, b)| a.storage.key.cmp(&b.storage.key));
        let mut last: Option<(String, Vec<u8>)> = None;
        for (name, view) in views {
            let key = &view.storage.key;
            let storage = match last.take().filter(|(last, _)| last == key) {
                Some((_, bytes)) => bytes,
                None => archive.bytes(&format!("data/{key}"), most)?,
            };
            let tensor = view.gather(&storage).map_err(|reason| LoadError::tensor(path, &name, reason))?;
            last = Some((view.storage.key, storage));
            listing.entries.insert(name, held(&file, tensor));
        }
        Ok(listing)
    })
}

/// The zip archive; its entries stand in a folder named after the program.
struct Archive<'a> {
    path: &'a Path,
    zip: Zip,
    folder: String,
}

impl<'a> Archive<'a> {
    fn open(path: &'a Path) -> Result<Self, LoadError> {
        let mut zip = open_archive(path, FORMAT)?;
        let fail = |reason: &str| LoadError::format(path, FORMAT, reason);
        let name = zip.zip_archive().file_names().find(|name| name.ends_with("data.pkl"));
        let folder = name.and_then(|name| name.strip_suffix("data.pkl")).map(str::to_string);
        let folder = folder.ok_or_else(|| fail("it has no data.pkl"))?;
        let mut archive = Self { path, zip, folder };
        // Older archives do not say, and are little-endian.
        let order = archive.bytes("byteorder", 16);
        match order.as_deref().unwrap_or(b"little".as_slice()) {
            b"little" => Ok(archive),
            _ => Err(fail("its numbers are big-endian, which is not read")),
        }
    }

    /// An entry of at most `most` bytes.
    fn bytes(&mut self, name: &str, most: u64) -> Result<Vec<u8>, LoadError> {
        let name = format!("{}{name}", self.folder);
        let fail = |reason: String| LoadError::format(self.path, FORMAT, reason);
        let entry = self.zip.zip_archive().by_name(&name).map_err(|e| fail(format!("`{name}`: {e}")))?;
        let size = entry.size();
        if size > most {
            return Err(LoadError::too_large(self.path, format!("`{name}` in bytes"), size, most));
        }
        let mut bytes = Vec::new();
        entry.take(size).read_to_end(&mut bytes).map_err(|e| fail(format!("`{name}`: {e}")))?;
        match bytes.len() as u64 == size {
            true => Ok(bytes),
            false => Err(fail(format!("`{name}` announces {size} bytes and holds {}", bytes.len()))),
        }
    }
}

/// The bytes that a tensor looks at.
#[derive(Clone, Debug)]
struct Storage {
    key: String,
    dtype: Dtype,
}

/// A tensor: every axis with its length and its step, in elements of the storage.
#[derive(Clone, Debug)]
struct View {
    storage: Storage,
    offset: usize,
    axes: Vec<(usize, usize)>,
}

impl View {
    fn shape(&self) -> Vec<usize> {
        self.axes.iter().map(|(length, _)| *length).collect()
    }

    /// Bytes of the values; the largest number where they cannot be counted.
    fn bytes(&self) -> u64 {
        let product =
            self.axes.iter().try_fold(self.storage.dtype.size(), |n, (length, _)| n.checked_mul(*length));
        product.map_or(u64::MAX, |n| n as u64)
    }

    /// The values row by row.
    fn gather(&self, storage: &[u8]) -> Result<HostTensor, String> {
        let (size, shape) = (self.storage.dtype.size(), self.shape());
        let number = count(&shape).map_err(|e| e.to_string())?;
        let reach = self.axes.iter().try_fold(self.offset, |at, (length, step)| {
            at.checked_add(length.saturating_sub(1).checked_mul(*step)?)
        });
        let end = reach.and_then(|last| last.checked_add(1)?.checked_mul(size));
        if number > 0 && end.is_none_or(|end| end > storage.len()) {
            return Err(format!("reaches beyond its {} bytes", storage.len()));
        }
        let mut data = Vec::with_capacity(number * size);
        let mut index = vec![0; shape.len()];
        for _ in 0..number {
            let steps = index.iter().zip(&self.axes).map(|(at, (_, step))| at * step);
            let at = (self.offset + steps.sum::<usize>()) * size;
            data.extend_from_slice(&storage[at..at + size]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        HostTensor::new(self.storage.dtype, shape, data).map_err(|e| e.to_string())
    }
}

/// The tensors of a tree of tables.
#[derive(Default)]
struct Walk {
    found: BTreeMap<String, View>,
    seen: usize,
}

impl Walk {
    fn enter(&mut self, name: String, value: &Value) -> Result<(), String> {
        self.seen += 1;
        if self.seen > MAX_ATTRIBUTES {
            return Err("more attributes than any model has".into());
        }
        if name.len() > MAX_NAME {
            return Err("a name is longer than any model's".into());
        }
        match value {
            Value::Tensor(view) => {
                self.found.insert(name, view.as_ref().clone());
                Ok(())
            }
            Value::Table(items, _) => items.iter().try_for_each(|(key, item)| {
                let name = if name.is_empty() { key.to_string() } else { format!("{name}.{key}") };
                self.enter(name, item)
            }),
            _ => Ok(()),
        }
    }
}

/// A value of the pickle, cheap to copy.
#[derive(Clone, Debug)]
enum Value {
    Mark,
    Int(i64),
    Text(Rc<str>),
    /// A class or a function: module and name.
    Global(Rc<str>),
    /// Items, and how deep they are nested.
    List(Rc<Vec<Value>>, usize),
    /// Attributes, and how deep they are nested.
    Table(Rc<Vec<(Rc<str>, Value)>>, usize),
    Storage(Rc<Storage>),
    Tensor(Rc<View>),
    /// What no tensor is made of.
    Other,
}

impl Value {
    fn table() -> Self {
        Self::Table(Rc::default(), 0)
    }

    fn list(items: Vec<Value>) -> Result<Self, String> {
        let depth = deeper(0, items.iter())?;
        Ok(Self::List(items.into(), depth))
    }

    fn depth(&self) -> usize {
        match self {
            Self::List(_, depth) | Self::Table(_, depth) => *depth,
            _ => 0,
        }
    }
}

/// The depth of what holds these values, and was `depth` deep before. Dropping a value takes as many calls.
fn deeper<'a>(depth: usize, items: impl Iterator<Item = &'a Value>) -> Result<usize, String> {
    let depth = items.map(|item| item.depth() + 1).fold(depth, usize::max);
    if depth > MAX_DEPTH { Err("it is nested too deeply".into()) } else { Ok(depth) }
}

/// Torch's pickle, opcode by opcode.
struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value>,
    memo: BTreeMap<usize, Value>,
    copied: usize,
}

impl<'a> Machine<'a> {
    /// The value of a pickle.
    fn run(pickle: &'a [u8]) -> Result<Value, String> {
        let mut machine = Self { rest: pickle, stack: Vec::new(), memo: BTreeMap::new(), copied: 0 };
        loop {
            let code = machine.byte()?;
            if code == b'.' {
                return machine.pop();
            }
            machine.step(code)?;
        }
    }

    fn step(&mut self, code: u8) -> Result<(), String> {
        let value = match code {
            0x80 => return self.take(1).map(drop),
            b'(' => Value::Mark,
            b'N' | 0x88 | 0x89 => Value::Other,
            b'K' => Value::Int(i64::from(self.byte()?)),
            b'M' => Value::Int(self.number::<2>()?),
            b'J' => Value::Int(i64::from(self.number::<4>()? as u32 as i32)),
            0x8a => self.long()?,
            b'G' => {
                self.take(8)?;
                Value::Other
            }
            b'X' => Value::Text(self.text()?),
            b'c' => Value::Global(format!("{} {}", self.line()?, self.line()?).into()),
            b')' | b']' => Value::List(Rc::default(), 0),
            b'}' => Value::table(),
            b't' => Value::list(self.marked()?)?,
            0x85..=0x87 => {
                let at =
                    self.stack.len().checked_sub(usize::from(code - 0x84)).ok_or("its stack is empty")?;
                Value::list(self.stack.split_off(at))?
            }
            b'q' | b'r' => return self.remember(code),
            b'h' | b'j' => self.recall(code)?,
            b'Q' => storage(&self.pop()?)?,
            0x81 => {
                // An object without attributes yet, of whatever class.
                self.pop()?;
                self.pop()?;
                Value::table()
            }
            b'b' => {
                let state = self.pop()?;
                self.pop()?;
                state
            }
            b'R' => {
                let arguments = self.pop()?;
                call(&self.pop()?, &arguments)?
            }
            b'a' | b'e' => {
                let items = if code == b'a' { vec![self.pop()?] } else { self.marked()? };
                self.append(items)?
            }
            b's' | b'u' => {
                let items = match code {
                    b'u' => self.marked()?,
                    _ => {
                        let value = self.pop()?;
                        vec![self.pop()?, value]
                    }
                };
                self.insert(items)?
            }
            _ => return Err(format!("opcode {code:#04x} is not one of torch's")),
        };
        self.stack.push(value);
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("it ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned number, little-endian.
    fn number<const N: usize>(&mut self) -> Result<i64, String> {
        Ok(self.take(N)?.iter().rev().fold(0, |n, byte| n << 8 | i64::from(*byte)))
    }

    /// A signed number of up to eight bytes.
    fn long(&mut self) -> Result<Value, String> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        if length > 8 {
            return Ok(Value::Other);
        }
        let sign = if bytes.last().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
        let mut whole = [sign; 8];
        whole[..length].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(whole)))
    }

    fn text(&mut self) -> Result<Rc<str>, String> {
        let length = self.number::<4>()? as usize;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "a text is not UTF-8")?;
        Ok(text.into())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or("it ends inside a name")?;
        let line = self.take(end + 1)?;
        std::str::from_utf8(&line[..end]).map_err(|_| "a name is not UTF-8".into())
    }

    fn pop(&mut self) -> Result<Value, String> {
        match self.stack.pop() {
            Some(Value::Mark) | None => Err("its stack is empty".into()),
            Some(value) => Ok(value),
        }
    }

    /// The values after the last mark.
    fn marked(&mut self) -> Result<Vec<Value>, String> {
        let mark =
            self.stack.iter().rposition(|value| matches!(value, Value::Mark)).ok_or("a mark is missing")?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn remember(&mut self, code: u8) -> Result<(), String> {
        let at = if code == b'q' { usize::from(self.byte()?) } else { self.number::<4>()? as usize };
        let value = self.stack.last().ok_or("its stack is empty")?.clone();
        self.memo.insert(at, value);
        Ok(())
    }

    fn recall(&mut self, code: u8) -> Result<Value, String> {
        let at = if code == b'h' { usize::from(self.byte()?) } else { self.number::<4>()? as usize };
        self.memo.get(&at).cloned().ok_or_else(|| "it recalls what it never kept".into())
    }

    /// The list on top, with more items.
    fn append(&mut self, more: Vec<Value>) -> Result<Value, String> {
        let Value::List(mut items, depth) = self.pop()? else {
            return Err("items for what is no list".into());
        };
        let depth = deeper(depth, more.iter())?;
        self.count_copy(&items)?;
        Rc::make_mut(&mut items).extend(more);
        Ok(Value::List(items, depth))
    }

    /// The table on top, with more items: keys and values in turn. A key that is no text names no attribute.
    fn insert(&mut self, more: Vec<Value>) -> Result<Value, String> {
        let Value::Table(mut items, depth) = self.pop()? else {
            return Err("items for what is no table".into());
        };
        let depth = deeper(depth, more.iter())?;
        self.count_copy(&items)?;
        let pairs = more.chunks_exact(2).filter_map(|pair| match &pair[0] {
            Value::Text(key) => Some((key.clone(), pair[1].clone())),
            _ => None,
        });
        Rc::make_mut(&mut items).extend(pairs);
        Ok(Value::Table(items, depth))
    }

    /// Refuses a pickle that has lists copied over and over.
    fn count_copy<T>(&mut self, items: &Rc<Vec<T>>) -> Result<(), String> {
        if Rc::strong_count(items) > 1 {
            self.copied += items.len();
        }
        if self.copied > MAX_COPIED { Err("it copies more than any model needs".into()) } else { Ok(()) }
    }
}

/// The storage of a persistent id: `('storage', type, key, device, elements)`.
fn storage(id: &Value) -> Result<Value, String> {
    let parts = match id {
        Value::List(parts, _) => parts.as_slice(),
        _ => &[],
    };
    let [Value::Text(word), Value::Global(kind), Value::Text(key), ..] = parts else {
        return Err("a storage is not described as torch does it".into());
    };
    if &**word != "storage" || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("a storage is not described as torch does it".into());
    }
    let dtype = match &**kind {
        "torch DoubleStorage" => Dtype::F64,
        "torch FloatStorage" => Dtype::F32,
        "torch HalfStorage" => Dtype::F16,
        "torch BFloat16Storage" => Dtype::BF16,
        "torch LongStorage" => Dtype::I64,
        "torch IntStorage" => Dtype::I32,
        "torch ShortStorage" => Dtype::I16,
        "torch CharStorage" => Dtype::I8,
        "torch ByteStorage" => Dtype::U8,
        "torch BoolStorage" => Dtype::Bool,
        other => return Err(format!("a storage of type {other} is not read")),
    };
    Ok(Value::Storage(Storage { key: key.to_string(), dtype }.into()))
}

/// What a call gives. Nothing is called: tensors are described, tables begin empty, all else is of no use here.
fn call(function: &Value, arguments: &Value) -> Result<Value, String> {
    let Value::Global(name) = function else { return Err("a call of what is no function".into()) };
    match &**name {
        "torch._utils _rebuild_tensor_v2" => tensor(arguments),
        "torch._utils _rebuild_qtensor" => Err("quantised tensors are not read".into()),
        "collections OrderedDict" => Ok(Value::table()),
        _ => Ok(Value::Other),
    }
}

/// `(storage, offset, shape, steps, …)`.
fn tensor(arguments: &Value) -> Result<Value, String> {
    let bad = || "a tensor is not described as torch does it".to_string();
    let Value::List(parts, _) = arguments else { return Err(bad()) };
    let [Value::Storage(storage), Value::Int(offset), Value::List(shape, _), Value::List(steps, _), ..] =
        parts.as_slice()
    else {
        return Err(bad());
    };
    let size = |value: &Value| match value {
        Value::Int(n) => usize::try_from(*n).map_err(|_| bad()),
        _ => Err(bad()),
    };
    if shape.len() != steps.len() {
        return Err(bad());
    }
    let axes = shape.iter().zip(steps.iter()).map(|(length, step)| Ok((size(length)?, size(step)?)));
    let axes = axes.collect::<Result<Vec<_>, String>>()?;
    let offset = usize::try_from(*offset).map_err(|_| bad())?;
    Ok(Value::Tensor(View { storage: storage.as_ref().clone(), offset, axes }.into()))
}
