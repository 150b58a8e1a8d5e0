//! A look at an ONNX file before the runtime gets it: is it one, and does it hold all its weights?
//!
//! The file is a protocol buffer (`onnx.proto3`, message ModelProto). Only the tags of the messages that may contain a
//! tensor are followed; numbers in brackets are the fields' numbers there.

/// Messages nested deeper than this are taken for garbage.
const MAX_DEPTH: usize = 64;

/// Where the weights are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Weights {
    /// All in this file.
    Inside,
    /// Some in another file (TensorProto.data_location = EXTERNAL).
    Outside,
}

/// The bytes are not an ONNX model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotOnnx;

/// Finds out about the weights of the model in `bytes`.
pub(super) fn inspect(bytes: &[u8]) -> Result<Weights, NotOnnx> {
    let (mut has_version, mut has_graph) = (false, false);
    for field in Fields(bytes) {
        match field? {
            (1, Value::Number(_)) => has_version = true,
            (7, Value::Bytes(_)) => has_graph = true,
            _ => (),
        }
    }
    if !(has_version && has_graph) {
        return Err(NotOnnx);
    }
    let outside = points_outside(Message::Model, bytes, 0)?;
    Ok(if outside {
        Weights::Outside
    } else {
        Weights::Inside
    })
}

/// The model's metadata: keys and values, in the order of the file.
pub(super) fn metadata(bytes: &[u8]) -> Result<Vec<(String, String)>, NotOnnx> {
    inspect(bytes)?;
    let mut entries = Vec::new();
    for field in Fields(bytes) {
        if let (METADATA, Value::Bytes(entry)) = field? {
            entries.push((text(entry, 1)?, text(entry, 2)?));
        }
    }
    Ok(entries)
}

/// The model in `bytes` with the metadata `entries` in place of any of the same keys; everything else stays, byte for byte.
pub(super) fn with_metadata(bytes: &[u8], entries: &[(&str, String)]) -> Result<Vec<u8>, NotOnnx> {
    let mut kept = Vec::with_capacity(bytes.len());
    let mut fields = Fields(bytes);
    loop {
        let before = fields.0;
        let Some(field) = fields.next() else { break };
        let is_replaced = match field? {
            (METADATA, Value::Bytes(entry)) => {
                let key = text(entry, 1)?;
                entries.iter().any(|(name, _)| *name == key)
            }
            _ => false,
        };
        if !is_replaced {
            kept.extend_from_slice(&before[..before.len() - fields.0.len()]);
        }
    }
    for (key, value) in entries {
        let mut entry = Vec::new();
        put(&mut entry, 1, key.as_bytes());
        put(&mut entry, 2, value.as_bytes());
        put(&mut kept, METADATA, &entry);
    }
    Ok(kept)
}

/// The text in a field of an entry; empty if it has none.
fn text(entry: &[u8], wanted: u64) -> Result<String, NotOnnx> {
    for field in Fields(entry) {
        if let (number, Value::Bytes(bytes)) = field?
            && number == wanted
        {
            return String::from_utf8(bytes.to_vec()).map_err(|_| NotOnnx);
        }
    }
    Ok(String::new())
}

/// ModelProto.metadata_props; an entry's key is field 1 and its value field 2.
const METADATA: u64 = 14;

/// Appends a field of bytes.
fn put(message: &mut Vec<u8>, field: u64, content: &[u8]) {
    for mut number in [field << 3 | 2, content.len() as u64] {
        while number >= 0x80 {
            message.push(number as u8 | 0x80);
            number >>= 7;
        }
        message.push(number as u8);
    }
    message.extend_from_slice(content);
}

/// Messages on the way from the model to a tensor.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
    Function,
}

impl Message {
    /// The message in field `number`, if it may hold tensors.
    fn field(self, number: u64) -> Option<Self> {
        match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Node, 5) | (Self::Function, 11) => Some(Self::Attribute),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Some(Self::Tensor),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::SparseTensor),
            _ => None,
        }
    }
}

fn points_outside(message: Message, bytes: &[u8], depth: usize) -> Result<bool, NotOnnx> {
    if depth > MAX_DEPTH {
        return Err(NotOnnx);
    }
    for field in Fields(bytes) {
        let outside = match (message, field?) {
            (Message::Tensor, (14, Value::Number(location))) => location == 1,
            (_, (number, Value::Bytes(inner))) => match message.field(number) {
                Some(message) => points_outside(message, inner, depth + 1)?,
                None => false,
            },
            _ => false,
        };
        if outside {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A field's content.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The fields of one message: number and content.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), NotOnnx>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(NotOnnx))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None,
        };
        (tag >> 3 > 0).then_some((tag >> 3, value))
    }

    /// A variable-length number of at most ten bytes.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for at in 0..10 {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A field that holds `inner`.
    fn field(number: u8, inner: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2, inner.len() as u8];
        bytes.extend(inner);
        bytes
    }

    fn model(graph: &[u8]) -> Vec<u8> {
        [vec![1 << 3, 8], field(7, graph)].concat()
    }

    #[test]
    fn weights_are_found_wherever_they_hide() {
        let (inside, outside) = ([14 << 3, 0], [14 << 3, 1]);
        let constant = |tensor: &[u8]| field(1, &field(5, &field(5, tensor)));
        let branch = |tensor: &[u8]| field(1, &field(5, &field(6, &field(5, tensor))));
        let sparse = |tensor: &[u8]| field(15, &field(1, tensor));
        for graph in [|tensor: &[u8]| field(5, tensor), constant, branch, sparse] {
            assert_eq!(inspect(&model(&graph(&inside))), Ok(Weights::Inside));
            assert_eq!(inspect(&model(&graph(&outside))), Ok(Weights::Outside));
        }
    }

    #[test]
    fn other_files_are_refused() {
        let cut = &model(&field(5, &[14 << 3, 1]))[..6];
        for bytes in [
            &b""[..],
            b"\x89PNG\r\n\x1a\n",
            b"hello, model",
            b"<html></html>",
            &[1 << 3, 8],
            cut,
        ] {
            assert_eq!(inspect(bytes), Err(NotOnnx), "{bytes:?}");
        }
    }

    #[test]
    fn metadata_is_replaced_and_the_rest_stays() {
        let entry = |key: &str, value: &str| {
            let mut inner = field(1, key.as_bytes());
            inner.extend(field(2, value.as_bytes()));
            field(14, &inner)
        };
        let bare = model(&field(5, &[14 << 3, 0]));
        let old = [entry("a", "1"), bare.clone(), entry("b", "2"), entry("c", "3")].concat();
        let entries = [("b", "20".to_owned()), ("d", "4".to_owned())];
        let expected = [
            entry("a", "1"),
            bare,
            entry("c", "3"),
            entry("b", "20"),
            entry("d", "4"),
        ]
        .concat();
        assert_eq!(with_metadata(&old, &entries), Ok(expected.clone()));
        let pairs =
            [("a", "1"), ("c", "3"), ("b", "20"), ("d", "4")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(metadata(&expected), Ok(pairs.to_vec()));
        assert_eq!(with_metadata(&expected, &[]), Ok(expected));
        assert_eq!(with_metadata(b"hello, model", &entries), Err(NotOnnx));
        let long = "x".repeat(300);
        let grown = with_metadata(&model(&[]), &[("a", long.clone())]).unwrap();
        assert!(grown.ends_with(long.as_bytes()) && inspect(&grown) == Ok(Weights::Inside));
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            drop(inspect(&bytes));
            drop(inspect(&model(&bytes[..bytes.len().min(100)])));
        }
    }
}
