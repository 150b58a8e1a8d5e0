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

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            drop(inspect(&bytes));
            drop(inspect(&model(&bytes[..bytes.len().min(100)])));
        }
    }
}
