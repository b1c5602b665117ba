//! The options of the command.

use std::ffi::OsString;
use std::fs;
use std::io::Read;

use secrecy::{ExposeSecret, SecretString};

use crate::api::{MAX_TOKEN, TOKEN_PREFIX, are_certificates};
use crate::store::DEFAULT_URL;

/// The variable with the root token. Astra's own clients also read this variable.
const VARIABLE: &str = "ASTRA_DB_APPLICATION_TOKEN";

/// The help text.
pub(super) const USAGE: &str = "\
Checks this machine and Astra, and prints one table. The table contains no secret. Run the doctor on the machine of the
server, as the user of the server:

    vault-plugin-secrets-datastax-astra -doctor

With a root token, it also asks Astra for the organization of the root token, mints a token that expires in 15 minutes, and
deletes that token. The root token is read from the variable ASTRA_DB_APPLICATION_TOKEN, or from standard input:

    printf %s \"$ROOT_TOKEN\" | vault-plugin-secrets-datastax-astra -doctor -token-stdin

Options:

    -url=<url>        Astra's API, as in the config of the mount (default: https://api.astra.datastax.com)
    -ca-cert=<file>   PEM file with CA certificates to trust, in addition to those of this machine
    -org-id=<id>      the organization that the root token should belong to
    -role-id=<id>     the Astra role of the token that is minted (default: a role that can only read, or one of the root token)
    -token-stdin      read the root token from standard input
    -read-only        mint no token
    -json             print JSON instead of a table

The exit status is 0 if nothing failed, 1 if a check failed, and 2 if an option cannot be used.
";

/// The request in the arguments.
pub(super) enum Asked {
    /// Print the help text.
    Usage,
    /// Make the checks.
    Checks(Options),
}

/// The options. No `Debug`: they hold the root token.
pub(super) struct Options {
    pub(super) url: String,
    pub(super) ca_cert: String,
    /// Empty if no organization is expected.
    pub(super) org_id: String,
    pub(super) role_id: Option<String>,
    pub(super) token: Option<SecretString>,
    pub(super) read_only: bool,
    pub(super) json: bool,
}

impl Options {
    /// Returns the client id of the root token; empty without a root token.
    pub(super) fn root_id(&self) -> String {
        let token = self.token.as_ref().map(ExposeSecret::expose_secret);
        token.and_then(|token| token.split(':').nth(1)).unwrap_or_default().to_owned()
    }
}

/// Parses the options. An option has one dash or two, as the other flags of the binary.
///
/// # Errors
/// Names the option that cannot be used, and never quotes a token.
pub(super) fn parse(
    arguments: Vec<OsString>,
    variable: impl Fn(&str) -> Option<String>,
    stdin: &mut dyn Read,
) -> Result<Asked, String> {
    let mut options = Options {
        url: DEFAULT_URL.to_owned(),
        ca_cert: String::new(),
        org_id: String::new(),
        role_id: None,
        token: variable(VARIABLE).map(SecretString::from),
        read_only: false,
        json: false,
    };
    for argument in arguments {
        let text = argument.to_str().unwrap_or_default();
        let flag = text.strip_prefix('-').map(|rest| rest.strip_prefix('-').unwrap_or(rest));
        match flag.map(|flag| flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)))) {
            Some(("help" | "h", None)) => return Ok(Asked::Usage),
            Some(("url", Some(url))) => url.clone_into(&mut options.url),
            Some(("ca-cert", Some(path))) => options.ca_cert = read_certificates(path)?,
            Some(("org-id", Some(id))) => id.clone_into(&mut options.org_id),
            Some(("role-id", Some(id))) => options.role_id = Some(id.to_owned()),
            Some(("token-stdin", None)) => options.token = Some(read_token(stdin)?),
            Some(("read-only", None)) => options.read_only = true,
            Some(("json", None)) => options.json = true,
            Some((name @ ("url" | "ca-cert" | "org-id" | "role-id"), None)) => {
                return Err(format!("-{name} has no value: write -{name}=<value>"));
            }
            // An argument can be a token that was typed in the wrong place.
            _ if text.contains(TOKEN_PREFIX) => {
                return Err(format!("a token must not be an argument: set {VARIABLE}, or use -token-stdin"));
            }
            _ => return Err(format!("unknown option {argument:?}")),
        }
    }
    options.token = options.token.map(check_token).transpose()?;
    Ok(Asked::Checks(options))
}

fn read_certificates(path: &str) -> Result<String, String> {
    let pem = fs::read_to_string(path).map_err(|error| format!("-ca-cert: {path:?} cannot be read: {error}"))?;
    if are_certificates(&pem) {
        Ok(pem)
    } else {
        Err(format!("-ca-cert: {path:?} is not PEM with CA certificates, or holds a private key"))
    }
}

fn read_token(stdin: &mut dyn Read) -> Result<SecretString, String> {
    let mut text = String::new();
    let limit = u64::try_from(MAX_TOKEN).unwrap_or(u64::MAX) + 2;
    stdin.take(limit).read_to_string(&mut text).map_err(|error| format!("-token-stdin: {}", error.kind()))?;
    Ok(SecretString::from(text))
}

/// Checks the form of a root token. Removes white space around the root token, such as a line end.
fn check_token(token: SecretString) -> Result<SecretString, String> {
    let text = token.expose_secret().trim();
    let form = format!("the root token must have the form {TOKEN_PREFIX}<client id>:<64 characters>");
    if text.is_empty() {
        return Err("the root token is empty".to_owned());
    }
    let parts = text.strip_prefix(TOKEN_PREFIX).and_then(|rest| rest.split_once(':'));
    let is_sound = parts.is_some_and(|(id, digest)| !id.is_empty() && !digest.is_empty() && !digest.contains(':'));
    if !is_sound || text.len() > MAX_TOKEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(form);
    }
    Ok(SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "AstraCS:abc:def";

    fn parsed(arguments: &[&str], variable: Option<&str>, stdin: &str) -> Result<Options, String> {
        let arguments = arguments.iter().map(OsString::from).collect();
        match parse(arguments, |_| variable.map(str::to_owned), &mut stdin.as_bytes())? {
            Asked::Checks(options) => Ok(options),
            Asked::Usage => Err("usage".to_owned()),
        }
    }

    fn token(options: &Options) -> Option<&str> {
        options.token.as_ref().map(ExposeSecret::expose_secret)
    }

    #[test]
    fn options_have_one_dash_or_two() {
        let options =
            parsed(&["-url=https://a/v2", "--org-id=o", "-role-id=r", "--json", "-read-only"], None, "").unwrap();
        assert_eq!((options.url.as_str(), options.org_id.as_str()), ("https://a/v2", "o"));
        assert_eq!((options.role_id.as_deref(), options.json, options.read_only), (Some("r"), true, true));
        assert!(options.token.is_none() && options.root_id().is_empty());
        assert_eq!(parsed(&["-json", "--help"], None, "").err().as_deref(), Some("usage"));
    }

    #[test]
    fn the_root_token_comes_from_the_variable_or_from_standard_input() {
        let options = parsed(&[], Some(TOKEN), "").unwrap();
        assert_eq!((token(&options), options.root_id().as_str()), (Some(TOKEN), "abc"));
        let options = parsed(&["-token-stdin"], Some("AstraCS:old:old"), &format!("{TOKEN}\n")).unwrap();
        assert_eq!(token(&options), Some(TOKEN));
    }

    #[test]
    fn an_option_that_cannot_be_used_is_named_and_no_token_is_quoted() {
        for (arguments, part) in [
            (&["-x"][..], "unknown option \"-x\""),
            (&["json"], "unknown option \"json\""),
            (&["-json=true"], "unknown option"),
            (&["-url"], "-url=<value>"),
            (&["-ca-cert=/nowhere"], "cannot be read"),
            (&["-ca-cert=/dev/null"], "is not PEM"),
            (&[TOKEN], "must not be an argument"),
            (&["-token=AstraCS:abc:def"], "must not be an argument"),
        ] {
            let mistake = parsed(arguments, None, "").err().unwrap();
            assert!(mistake.contains(part) && !mistake.contains("abc:def"), "{mistake}");
        }
        for text in ["", " \n", "abc", "AstraCS:abc", "AstraCS::def", "AstraCS:abc:", "AstraCS:a:b:c", "AstraCS:a b:c"]
        {
            let mistake = parsed(&["-token-stdin"], None, text).err().unwrap();
            assert!(mistake.contains("root token") && !mistake.contains("abc"), "{mistake}");
        }
    }
}
