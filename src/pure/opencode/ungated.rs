//! Models of opencode that are not gated, though their server may well be: the provider has
//! another name, or was left out of the model's.

use crate::pure::base_url::BaseUrl;
use crate::pure::opencode::roles::RoleModel;
use crate::pure::text::similar;

/// Whether a provider of this name and address is probably LM Studio: it is on this machine, and
/// is called so or is the very server of the gate, or one of them.
pub fn looks_like_lm_studio(provider: &str, address: &BaseUrl, of_gate: impl IntoIterator<Item = BaseUrl>) -> bool {
    let letters: String = provider.chars().filter(char::is_ascii_alphanumeric).collect();
    let letters = letters.to_ascii_lowercase();
    let is_called_so = letters.contains("lmstudio") || !similar(&letters, ["lmstudio"]).is_empty();
    address.is_loopback() && (is_called_so || of_gate.into_iter().any(|base| base.slug() == address.slug()))
}

/// A warning about a model whose provider is left out: opencode takes what stands before its
/// first slash for one. `keys` are what the server of the gate has downloaded.
pub fn without_provider(model: &RoleModel, gated: &[String], keys: &[String]) -> Option<String> {
    let reference = model.reference();
    if !keys.contains(&reference) {
        return None;
    }
    let provider = gated.first()?;
    Some(format!(
        "{} is {reference} ({}), which opencode takes for the model `{}` of a provider `{}`; LM Studio has `{reference}`: write `{provider}/{reference}`",
        model.role, model.place, model.model, model.provider
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_provider_that_is_called_like_it_or_is_where_the_gate_asks_looks_like_lm_studio() {
        let of_gate = BaseUrl::parse("http://localhost:1234/v1").unwrap();
        for (provider, address, looks) in [
            ("lm-studio", "http://127.0.0.1:4321/v1", true),
            ("LM_Studio", "http://localhost:1/v1", true),
            ("my-lmstudio", "http://[::1]:1/v1", true),
            ("lmstuido", "http://127.0.0.1:1", true),
            ("local", "http://127.0.0.1:1234/v1", true),
            ("ollama", "http://127.0.0.1:11434/v1", false),
            ("lm-studio", "https://llm.example/v1", false),
            ("llama-swap", "http://127.0.0.1:8080/v1", false),
        ] {
            let address = BaseUrl::parse(address).unwrap();
            assert_eq!(looks_like_lm_studio(provider, &address, [of_gate.clone()]), looks, "{provider} {address}");
        }
    }
}
