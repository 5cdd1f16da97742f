//! JSON from outside, read more strictly than serde does.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A `T` that was written as an object. serde alone would fill a struct from a list as well,
/// so that `[[]]` would be an answer with an empty list of models.
#[derive(Debug)]
pub(crate) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

struct Members<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Pair {
        left: u8,
        right: u8,
    }

    #[test]
    fn a_list_is_no_object() {
        assert!(serde_json::from_str::<Pair>("[1, 2]").is_ok(), "serde alone takes it for one");
        assert!(serde_json::from_str::<Object<Pair>>("[1, 2]").is_err());
        let Object(Pair { left, right }) = serde_json::from_str(r#"{ "right": 2, "left": 1 }"#).unwrap();
        assert_eq!((left, right), (1, 2));
    }
}
