//! The part of Python's pickle language that a dictionary of torch tensors is written in.
//!
//! A pickle is a program. This reader runs none of it: it knows the opcodes that build plain values, and of the
//! functions that a pickle may name only those that torch uses to describe a tensor. Any other opcode or name is
//! refused. Opcodes: `pickletools` of CPython; tensors: `torch/_utils.py`, `torch/serialization.py`.

use std::{io::Read, rc::Rc};

use super::tensor_index::ElementType;

/// Longest text, in bytes; names of parameters are far shorter.
const MAX_TEXT_LEN: u32 = 4096;
/// Containers inside of containers; a state dict needs four.
const MAX_DEPTH: usize = 16;

/// A value that a pickle has built.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool,
    Int(i64),
    /// A whole number of more than eight bytes, little-endian.
    Long(Rc<[u8]>),
    Text(Rc<str>),
    Tuple(Rc<Container>),
    List(Container),
    /// Keys and values in turn.
    Dict(Container),
    Callable(Callable),
    /// A kind of storage, such as `torch.FloatStorage`.
    StorageType(ElementType),
    Storage(Storage),
    Tensor(Rc<TensorRecord>),
}

/// Values with the depth of their nesting.
#[derive(Clone, Debug, Default)]
pub(super) struct Container {
    pub(super) values: Vec<Value>,
    depth: usize,
}

/// Functions that are understood without being called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callable {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
}

/// Elements that tensors are views of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) element: ElementType,
    pub(super) key: Rc<str>,
    pub(super) num_elements: u64,
}

/// A view of a storage, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorRecord {
    pub(super) storage: Storage,
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// What a pickle of a state dict has at a place, and what was found.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) expected: String,
    pub(super) got: String,
}

type Outcome<T> = Result<T, Refusal>;

fn refuse<T>(expected: impl Into<String>, got: impl Into<String>) -> Outcome<T> {
    Err(Refusal { expected: expected.into(), got: got.into() })
}

/// Reads one pickle up to its end and returns what it describes.
pub(super) fn read(source: &mut impl Read) -> Outcome<Value> {
    let mut machine = Machine { source, stack: Vec::new(), marks: Vec::new(), memo: Vec::new() };
    loop {
        let [opcode] = machine.bytes()?;
        if opcode == b'.' {
            return machine.pop();
        }
        machine.step(opcode)?;
    }
}

struct Machine<'a, R> {
    source: &'a mut R,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    /// Remembered values. Containers that grow are remembered as they are then, which is empty: a state dict never
    /// refers back to one.
    memo: Vec<Value>,
}

impl<R: Read> Machine<'_, R> {
    fn step(&mut self, opcode: u8) -> Outcome<()> {
        match opcode {
            0x80 => match self.bytes()? {
                [2] => Ok(()),
                [other] => refuse("pickle protocol 2", format!("protocol {other}")),
            },
            b'c' => self.global(),
            b'q' => self.bytes::<1>().and_then(|[idx]| self.remember(idx.into())),
            b'r' => self.bytes().and_then(|idx| self.remember(u32::from_le_bytes(idx))),
            b'h' => self.bytes::<1>().and_then(|[idx]| self.recall(idx.into())),
            b'j' => self.bytes().and_then(|idx| self.recall(u32::from_le_bytes(idx))),
            b'X' => self.text(),
            b'J' => self.bytes().and_then(|bytes| self.push(Value::Int(i32::from_le_bytes(bytes).into()))),
            b'K' => self.bytes::<1>().and_then(|[value]| self.push(Value::Int(value.into()))),
            b'M' => self.bytes().and_then(|bytes| self.push(Value::Int(u16::from_le_bytes(bytes).into()))),
            0x8a => self.long(),
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b')' => self.tuple(Vec::new()),
            0x85..=0x87 => self.pop_many(usize::from(opcode - 0x84)).and_then(|values| self.tuple(values)),
            b't' => self.pop_to_mark().and_then(|values| self.tuple(values)),
            b']' => self.push(Value::List(Container::default())),
            b'}' => self.push(Value::Dict(Container::default())),
            b'a' => self.pop_many(1).and_then(|values| self.extend(values)),
            b's' => self.pop_many(2).and_then(|values| self.extend(values)),
            b'e' | b'u' => self.pop_to_mark().and_then(|values| self.extend(values)),
            b'Q' => self.persistent_id(),
            b'R' => self.reduce(),
            // State of an object: torch keeps version numbers there, which say nothing about tensors.
            b'b' => self.pop().map(drop),
            other => refuse("an opcode that describes tensors", format!("opcode 0x{other:02x}")),
        }
    }

    fn bytes<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let mut bytes = [0; N];
        match self.source.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) => refuse("a whole pickle", error.to_string()),
        }
    }

    fn push(&mut self, value: Value) -> Outcome<()> {
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Outcome<Value> {
        let lowest = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(value) if self.stack.len() >= lowest => Ok(value),
            _ => refuse("a value on the stack", "an empty stack"),
        }
    }

    fn pop_many(&mut self, num_values: usize) -> Outcome<Vec<Value>> {
        let lowest = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(num_values) {
            Some(start) if start >= lowest => Ok(self.stack.split_off(start)),
            _ => refuse(format!("{num_values} values on the stack"), "fewer"),
        }
    }

    fn pop_to_mark(&mut self) -> Outcome<Vec<Value>> {
        match self.marks.pop() {
            Some(mark) if mark <= self.stack.len() => Ok(self.stack.split_off(mark)),
            _ => refuse("a mark on the stack", "none"),
        }
    }

    fn text(&mut self) -> Outcome<()> {
        let len = u32::from_le_bytes(self.bytes()?);
        if len > MAX_TEXT_LEN {
            return refuse(format!("text of at most {MAX_TEXT_LEN} bytes"), format!("{len} bytes"));
        }
        let mut bytes = vec![0; len as usize];
        if let Err(error) = self.source.read_exact(&mut bytes) {
            return refuse("a whole pickle", error.to_string());
        }
        let text = String::from_utf8_lossy(&bytes);
        self.push(Value::Text(text.into()))
    }

    fn long(&mut self) -> Outcome<()> {
        let [len] = self.bytes()?;
        let mut bytes = vec![0; len.into()];
        if let Err(error) = self.source.read_exact(&mut bytes) {
            return refuse("a whole pickle", error.to_string());
        }
        let is_negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        self.push(if bytes.len() > 8 {
            Value::Long(bytes.into())
        } else {
            let mut wide = [if is_negative { 0xff } else { 0 }; 8];
            wide[..bytes.len()].copy_from_slice(&bytes);
            Value::Int(i64::from_le_bytes(wide))
        })
    }

    /// Memo entries are numbered without gaps, so a number that skips some is refused rather than allocated for.
    fn remember(&mut self, idx: u32) -> Outcome<()> {
        let Some(value) = self.stack.last().cloned() else {
            return refuse("a value on the stack", "an empty stack");
        };
        let is_grown = matches!(&value, Value::List(c) | Value::Dict(c) if !c.values.is_empty());
        if is_grown {
            return refuse("a new container to remember", "one that holds something");
        }
        let idx = idx as usize;
        if idx > self.memo.len() {
            return refuse(format!("memo entry {} at most", self.memo.len()), format!("{idx}"));
        }
        if idx == self.memo.len() {
            self.memo.push(value);
        } else {
            self.memo[idx] = value;
        }
        Ok(())
    }

    fn recall(&mut self, idx: u32) -> Outcome<()> {
        match self.memo.get(idx as usize).cloned() {
            Some(value) => self.push(value),
            None => refuse(format!("a memo entry below {}", self.memo.len()), format!("{idx}")),
        }
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = Vec::new();
        loop {
            match self.bytes()? {
                [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
                [byte] if line.len() < MAX_TEXT_LEN as usize => line.push(byte),
                _ => return refuse("a name", format!("more than {MAX_TEXT_LEN} bytes")),
            }
        }
    }

    fn global(&mut self) -> Outcome<()> {
        let (module, name) = (self.line()?, self.line()?);
        let value = match (module.as_str(), name.as_str()) {
            ("collections", "OrderedDict") => Value::Callable(Callable::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Value::Callable(Callable::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Value::Callable(Callable::RebuildParameter),
            ("torch", "FloatStorage") => Value::StorageType(ElementType::F32),
            ("torch", "HalfStorage") => Value::StorageType(ElementType::F16),
            ("torch", "BFloat16Storage") => Value::StorageType(ElementType::Bf16),
            ("torch", "DoubleStorage" | "LongStorage") => {
                Value::StorageType(ElementType::Other { num_bytes: 8 })
            }
            ("torch", "IntStorage") => Value::StorageType(ElementType::Other { num_bytes: 4 }),
            ("torch", "ShortStorage") => Value::StorageType(ElementType::Other { num_bytes: 2 }),
            ("torch", "ByteStorage" | "CharStorage" | "BoolStorage") => {
                Value::StorageType(ElementType::Other { num_bytes: 1 })
            }
            _ => {
                return refuse("names that describe tensors, and no code to run", format!("{module}.{name}"));
            }
        };
        self.push(value)
    }

    fn tuple(&mut self, values: Vec<Value>) -> Outcome<()> {
        let container = nested(values)?;
        self.push(Value::Tuple(Rc::new(container)))
    }

    /// Adds values to the list or dictionary below them.
    fn extend(&mut self, values: Vec<Value>) -> Outcome<()> {
        let added = nested(values)?;
        match self.stack.last_mut() {
            Some(Value::List(container)) => container.absorb(added),
            Some(Value::Dict(container)) if added.values.len().is_multiple_of(2) => container.absorb(added),
            _ => return refuse("a list or dictionary to add to", "something else"),
        }
        Ok(())
    }

    /// `('storage', type, key, place, number of elements, ..)`
    fn persistent_id(&mut self) -> Outcome<()> {
        let value = self.pop()?;
        let Value::Tuple(tuple) = &value else {
            return refuse("a tuple that names a storage", "another value");
        };
        match &tuple.values[..] {
            [
                Value::Text(kind),
                Value::StorageType(element),
                Value::Text(key),
                Value::Text(_),
                Value::Int(num_elements),
                rest @ ..,
            ] if &**kind == "storage" && *num_elements >= 0 && matches!(rest, [] | [Value::None]) => {
                let num_elements = *num_elements as u64;
                self.push(Value::Storage(Storage { element: *element, key: key.clone(), num_elements }))
            }
            _ => refuse("('storage', type, key, place, number of elements)", "another tuple"),
        }
    }

    /// A call of one of the known functions.
    fn reduce(&mut self) -> Outcome<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let (Value::Tuple(arguments), Value::Callable(callable)) = (&arguments, &callable) else {
            return refuse("a function that describes tensors", "something else");
        };
        let result = match (callable, &arguments.values[..]) {
            (Callable::OrderedDict, []) => Value::Dict(Container::default()),
            (Callable::RebuildTensor, [Value::Storage(storage), Value::Int(offset), shape, strides, ..])
                if *offset >= 0 =>
            {
                let (shape, strides) = (sizes(shape)?, sizes(strides)?);
                if shape.len() != strides.len() {
                    return refuse("a stride for each dimension", format!("{strides:?} for {shape:?}"));
                }
                let offset = *offset as u64;
                Value::Tensor(Rc::new(TensorRecord { storage: storage.clone(), offset, shape, strides }))
            }
            (Callable::RebuildParameter, [Value::Tensor(tensor), ..]) => Value::Tensor(tensor.clone()),
            _ => return refuse("the arguments of a tensor", format!("others for {callable:?}")),
        };
        self.push(result)
    }
}

impl Container {
    fn absorb(&mut self, added: Self) {
        self.depth = self.depth.max(added.depth);
        self.values.extend(added.values);
    }
}

/// Values as the content of a container, unless they are nested too deep.
fn nested(values: Vec<Value>) -> Outcome<Container> {
    let depth_of = |value: &Value| match value {
        Value::Tuple(container) => container.depth,
        Value::List(container) | Value::Dict(container) => container.depth.max(1),
        _ => 0,
    };
    let depth = 1 + values.iter().map(depth_of).max().unwrap_or(0);
    if depth > MAX_DEPTH {
        return refuse(format!("containers nested at most {MAX_DEPTH} deep"), "deeper ones");
    }
    Ok(Container { values, depth })
}

fn sizes(value: &Value) -> Outcome<Vec<usize>> {
    let size_of = |value: &Value| match value {
        Value::Int(size) => usize::try_from(*size).ok(),
        _ => None,
    };
    let found = match value {
        Value::Tuple(tuple) => tuple.values.iter().map(size_of).collect::<Option<Vec<_>>>(),
        _ => None,
    };
    found.map_or_else(|| refuse("a tuple of sizes", "another value"), Ok)
}
