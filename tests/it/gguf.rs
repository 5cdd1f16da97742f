//! Writes models of a few hundred kilobytes that a real llama.cpp loads in milliseconds and answers with. They know one
//! sentence: after anything that is not one of its words comes the first of them, after each the next.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// What a model answers to anything, unless it is cut short.
pub const ANSWER: &str = "one two three four five six seven eight";

/// Length of a token's vector.
const EMBEDDING: usize = 64;
/// Each tensor begins at a multiple of this.
const ALIGNMENT: usize = 32;

/// How the model is made.
pub struct TinyModel {
    /// The context it claims to be trained for, in tokens.
    pub trained_context: u32,
    /// It never ends its answer: a request takes as many tokens as it may.
    pub endless: bool,
    /// Bytes of zeros in its weights, which take no room on most disks. Zero is as few as there can be.
    pub padding: usize,
    /// What is wrong with the file.
    pub damage: Option<Damage>,
}

/// What makes a file useless.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// It does not begin as a model does.
    Magic,
    /// Its second half is missing.
    Truncated,
    /// It lacks a tensor.
    MissingTensor,
}

impl Default for TinyModel {
    fn default() -> Self {
        Self { trained_context: 4096, endless: false, padding: 0, damage: None }
    }
}

impl TinyModel {
    pub fn write(&self, path: &Path) {
        let (tokens, kinds) = vocabulary();
        // Three matrices of zeros. Those before them are zeros too: the model looks at the last token alone.
        let feed_forward = (self.padding / (3 * EMBEDDING * size_of::<f32>())).max(EMBEDDING);
        let square = [EMBEDDING, EMBEDDING];
        let mut tensors = vec![
            Tensor::new("token_embd.weight", &[EMBEDDING, tokens.len()], embeddings(&tokens)),
            Tensor::new("output.weight", &[EMBEDDING, tokens.len()], self.successors(&tokens)),
            Tensor::new("output_norm.weight", &[EMBEDDING], vec![1.0; EMBEDDING]),
            Tensor::new("blk.0.attn_norm.weight", &[EMBEDDING], vec![1.0; EMBEDDING]),
            Tensor::new("blk.0.ffn_norm.weight", &[EMBEDDING], vec![1.0; EMBEDDING]),
            Tensor::zeros("blk.0.attn_q.weight", &square),
            Tensor::zeros("blk.0.attn_k.weight", &square),
            Tensor::zeros("blk.0.attn_v.weight", &square),
            Tensor::zeros("blk.0.attn_output.weight", &square),
            Tensor::zeros("blk.0.ffn_gate.weight", &[EMBEDDING, feed_forward]),
            Tensor::zeros("blk.0.ffn_up.weight", &[EMBEDDING, feed_forward]),
            Tensor::zeros("blk.0.ffn_down.weight", &[feed_forward, EMBEDDING]),
        ];
        if self.damage == Some(Damage::MissingTensor) {
            tensors.retain(|it| it.name != "output_norm.weight");
        }

        let mut metadata = Metadata::default();
        metadata.text("general.architecture", "llama");
        metadata.number("llama.context_length", self.trained_context);
        metadata.number("llama.embedding_length", length(EMBEDDING));
        metadata.number("llama.block_count", 1);
        metadata.number("llama.feed_forward_length", length(feed_forward));
        metadata.number("llama.attention.head_count", 4);
        metadata.number("llama.attention.head_count_kv", 4);
        metadata.fraction("llama.attention.layer_norm_rms_epsilon", 1e-5);
        metadata.number("llama.rope.dimension_count", length(EMBEDDING / 4));
        metadata.text("tokenizer.ggml.model", "llama");
        metadata.texts("tokenizer.ggml.tokens", &tokens);
        metadata.fractions("tokenizer.ggml.scores", &vec![0.0; tokens.len()]);
        metadata.integers("tokenizer.ggml.token_type", &kinds);
        metadata.number("tokenizer.ggml.unknown_token_id", 0);
        metadata.number("tokenizer.ggml.bos_token_id", 1);
        metadata.number("tokenizer.ggml.eos_token_id", length(END));
        metadata.text(
            "tokenizer.chat_template",
            "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:",
        );

        let mut head = match self.damage {
            Some(Damage::Magic) => b"NOPE".to_vec(),
            _ => b"GGUF".to_vec(),
        };
        head.extend(3_u32.to_le_bytes());
        head.extend(wide(tensors.len()));
        head.extend(wide(metadata.count));
        head.extend(metadata.bytes);
        let mut offset = 0_usize;
        for tensor in &tensors {
            head.extend(text(tensor.name));
            head.extend(length(tensor.shape.len()).to_le_bytes());
            tensor.shape.iter().for_each(|&size| head.extend(wide(size)));
            // 32-bit floats.
            head.extend(0_u32.to_le_bytes());
            head.extend(wide(offset));
            offset += tensor.bytes();
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
        let start = head.len();

        let file = File::create(path).expect("a model's file");
        let mut writer = BufWriter::new(&file);
        writer.write_all(&head).expect("its head");
        for tensor in &tensors {
            for value in &tensor.values {
                writer.write_all(&value.to_le_bytes()).expect("its weights");
            }
        }
        writer.flush().expect("its weights");
        drop(writer);
        let whole = start + offset;
        let kept = if self.damage == Some(Damage::Truncated) { whole / 2 } else { whole };
        file.set_len(kept as u64).expect("a file of this size");
    }

    /// A row for each token, which agrees with the vectors of those that it follows.
    fn successors(&self, tokens: &[String]) -> Vec<f32> {
        let words = words().count();
        let row = |token: usize| match token.checked_sub(WORDS) {
            Some(0) if self.endless => sum(&vector(0), &vector(words)),
            Some(word) => vector(word),
            None if token == END && !self.endless => vector(words),
            None => vec![0.0; EMBEDDING],
        };
        (0..tokens.len()).flat_map(row).collect()
    }
}

/// The token that ends an answer.
const END: usize = 2;
/// The first of the words: before it are three control tokens and each byte.
const WORDS: usize = 3 + 256;

fn words() -> impl Iterator<Item = &'static str> {
    ANSWER.split(' ')
}

/// The tokens, and of which kind each is.
fn vocabulary() -> (Vec<String>, Vec<i32>) {
    let (unknown, control, byte, normal) = (2, 3, 6, 1);
    let mut all: Vec<(String, i32)> =
        [("<unk>", unknown), ("<s>", control), ("</s>", control)].map(|(text, kind)| (text.to_owned(), kind)).into();
    all.extend((0..=255).map(|value| (format!("<0x{value:02X}>"), byte)));
    // A blank before each but the first.
    let blanks = std::iter::once("").chain(std::iter::repeat("\u{2581}"));
    all.extend(words().zip(blanks).map(|(word, blank)| (format!("{blank}{word}"), normal)));
    all.into_iter().unzip()
}

/// One vector for all that may come before the first word, and one for each word.
fn embeddings(tokens: &[String]) -> Vec<f32> {
    (0..tokens.len()).flat_map(|token| vector((token + 1).saturating_sub(WORDS))).collect()
}

/// Vectors of ones, negative or not, each at a right angle to every other (rows of a Hadamard matrix).
fn vector(number: usize) -> Vec<f32> {
    let sign = |column: usize| if (column & number).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    (0..EMBEDDING).map(sign).collect()
}

fn sum(left: &[f32], right: &[f32]) -> Vec<f32> {
    left.iter().zip(right).map(|(left, right)| left + right).collect()
}

struct Tensor {
    name: &'static str,
    shape: Vec<usize>,
    /// Those that are written; what is missing at the end of the file are zeros.
    values: Vec<f32>,
}

impl Tensor {
    fn new(name: &'static str, shape: &[usize], values: Vec<f32>) -> Self {
        Self { name, shape: shape.to_vec(), values }
    }

    /// All of these stand behind all of the others.
    fn zeros(name: &'static str, shape: &[usize]) -> Self {
        Self::new(name, shape, Vec::new())
    }

    /// A multiple of the alignment, since each row is one.
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * size_of::<f32>()
    }
}

/// What stands before the tensors: names with values, each value behind the number of its type.
#[derive(Default)]
struct Metadata {
    bytes: Vec<u8>,
    count: usize,
}

impl Metadata {
    fn entry(&mut self, name: &str, kind: u32, value: impl IntoIterator<Item = u8>) {
        self.bytes.extend(text(name));
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend(value);
        self.count += 1;
    }

    fn array(&mut self, name: &str, kind: u32, count: usize, values: impl IntoIterator<Item = u8>) {
        let head = kind.to_le_bytes().into_iter().chain(wide(count));
        self.entry(name, 9, head.chain(values));
    }

    fn number(&mut self, name: &str, value: u32) {
        self.entry(name, 4, value.to_le_bytes());
    }

    fn fraction(&mut self, name: &str, value: f32) {
        self.entry(name, 6, value.to_le_bytes());
    }

    fn text(&mut self, name: &str, value: &str) {
        self.entry(name, 8, text(value));
    }

    fn texts(&mut self, name: &str, values: &[String]) {
        self.array(name, 8, values.len(), values.iter().flat_map(|it| text(it)));
    }

    fn fractions(&mut self, name: &str, values: &[f32]) {
        self.array(name, 6, values.len(), values.iter().flat_map(|it| it.to_le_bytes()));
    }

    fn integers(&mut self, name: &str, values: &[i32]) {
        self.array(name, 5, values.len(), values.iter().flat_map(|it| it.to_le_bytes()));
    }
}

fn text(value: &str) -> Vec<u8> {
    [&wide(value.len()), value.as_bytes()].concat()
}

fn wide(value: usize) -> [u8; 8] {
    (value as u64).to_le_bytes()
}

fn length(value: usize) -> u32 {
    u32::try_from(value).expect("a small number")
}
