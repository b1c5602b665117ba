//! The cases show how Go reads these variables: where it connects, and which login it sends. They were observed with
//! `net/http` of Go 1.26 and `golang.org/x/net` 0.62. The two differ in one point: if a variable is set in upper and in lower
//! case, `net/http` reads the upper case. Programs in Go use `net/http`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use proptest::prelude::*;

use super::address::Login;
use super::*;

fn proxies(variables: &[(&'static str, &str)]) -> Proxies {
    let variables: Vec<_> = variables.iter().map(|&(name, value)| (name, value.to_owned())).collect();
    Proxies::new(&variables)
}

/// Returns how calls reach a URL: `direct`, the address and login of the proxy, or the error.
fn route(variables: &[(&'static str, &str)], url: &str) -> String {
    let proxy = match proxies(variables).for_url(&Url::parse(url).unwrap()) {
        Ok(Some(proxy)) => proxy,
        Ok(None) => return "direct".to_owned(),
        Err(error) => return error.to_string(),
    };
    let Address { scheme, host, port, login } = proxy.address;
    let scheme = match scheme {
        Scheme::Http => "",
        Scheme::Https => "tls ",
        Scheme::Socks => "socks ",
    };
    let login = login.map_or_else(String::new, |Login { user, password }| {
        format!(" {}", STANDARD.encode([&user[..], b":", &password].concat()))
    });
    format!("{scheme}{host}:{port}{login}")
}

/// Asserts that an error names the variable and contains no part of its value.
#[track_caller]
fn assert_names(variable: &str, value: &str, error: &str) {
    assert!(error.starts_with(&format!("{variable} in the environment of the plugin cannot be used: ")), "{error}");
    for word in ["proxy.corp", "127.0.0.1", "notaport", "::1", "user", "s3cret", "foo", "a.test"] {
        // The advice for SOCKS5 contains the words "user name".
        assert!(!value.contains(word) || !error.replace("user name", "").contains(word), "{error}");
    }
}

#[test]
fn values_that_go_accepts_give_the_same_proxy_as_in_go() {
    for (value, expected) in [
        ("proxy.corp:3128", "proxy.corp:3128"),
        ("proxy.corp", "proxy.corp:80"),
        ("http://proxy.corp:3128", "proxy.corp:3128"),
        ("http://proxy.corp:3128/", "proxy.corp:3128"),
        ("http://proxy.corp", "proxy.corp:80"),
        ("HTTP://proxy.corp:3128", "proxy.corp:3128"),
        ("https://proxy.corp", "tls proxy.corp:443"),
        ("https://proxy.corp:8443", "tls proxy.corp:8443"),
        ("socks5://proxy.corp", "socks proxy.corp:1080"),
        ("socks5h://proxy.corp", "socks proxy.corp:1080"),
        ("socks5h://proxy.corp:1081", "socks proxy.corp:1081"),
        ("socks5://user:p%40ss@proxy.corp:1080", "socks proxy.corp:1080 dXNlcjpwQHNz"),
        ("socks5://user@proxy.corp:1080", "socks proxy.corp:1080 dXNlcjo="),
        ("user:pass@proxy.corp:3128", "proxy.corp:3128 dXNlcjpwYXNz"),
        ("http://user:pass@proxy.corp:3128", "proxy.corp:3128 dXNlcjpwYXNz"),
        ("http://user@proxy.corp:3128", "proxy.corp:3128 dXNlcjo="),
        ("http://user:@proxy.corp:3128", "proxy.corp:3128 dXNlcjo="),
        ("http://:pass@proxy.corp:3128", "proxy.corp:3128 OnBhc3M="),
        ("http://@proxy.corp:3128", "proxy.corp:3128 Og=="),
        ("http://user:p%40s%3As%23%2f%FF@proxy.corp:3128", "proxy.corp:3128 dXNlcjpwQHM6cyMv/w=="),
        ("http://us%3Aer:pass@proxy.corp:3128", "proxy.corp:3128 dXM6ZXI6cGFzcw=="),
        ("http://user:p@ss@proxy.corp:3128", "proxy.corp:3128 dXNlcjpwQHNz"),
        ("http://user:p:ss@proxy.corp:3128", "proxy.corp:3128 dXNlcjpwOnNz"),
        ("http://user:!$&'()*+,;=~_-.@proxy.corp:3128", "proxy.corp:3128 dXNlcjohJCYnKCkqKyw7PX5fLS4="),
        ("http://[::1]", "[::1]:80"),
        ("http://[::1]:3128", "[::1]:3128"),
        ("[::1]:3128", "[::1]:3128"),
        ("http://pröxy.corp:3128", "xn--prxy-6qa.corp:3128"),
        ("http://proxy_1.corp:3128", "proxy_1.corp:3128"),
        ("off", "off:80"),
    ] {
        assert_eq!(route(&[("HTTP_PROXY", value)], "http://a.test/"), expected, "{value}");
        assert_eq!(route(&[("https_proxy", value)], "https://a.test/"), expected, "{value}");
    }
}

/// For most of these values, Go connects to the host `http`, to the host `user`, or to Astra itself.
#[test]
fn values_that_cannot_be_parsed_are_errors_that_name_the_variable_only() {
    for &value in UNUSABLE {
        assert_names("HTTP_PROXY", value, &route(&[("HTTP_PROXY", value)], "http://a.test/"));
        assert_names("https_proxy", value, &route(&[("https_proxy", value)], "https://a.test/"));
        assert_names("all_proxy", value, &route(&[("all_proxy", value)], "https://a.test/"));
        // Calls that do not need the variable still work.
        assert_eq!(route(&[("HTTP_PROXY", value)], "https://a.test/"), "direct", "{value}");
        assert_eq!(route(&[("HTTPS_PROXY", value)], "http://a.test/"), "direct", "{value}");
        assert_eq!(route(&[("HTTP_PROXY", value), ("no_proxy", "a.test")], "http://a.test/"), "direct", "{value}");
        assert_eq!(route(&[("HTTP_PROXY", value)], "http://127.0.0.1:8080/"), "direct", "{value}");
        assert_eq!(route(&[("ALL_PROXY", value), ("HTTP_PROXY", "p:1")], "http://a.test/"), "p:1", "{value}");
    }
}

/// Values of proxy variables that cannot be used.
const UNUSABLE: &[&str] = &[
    "http://127.0.0.1:notaport",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:-1",
    "http://127.0.0.1:+80",
    "http://127.0.0.1:0",
    "http://127.0.0.1:",
    "http://[::1",
    "http://[::1]x:3128",
    "http://[fe80::1%25eth0]:3128",
    "http://::1:3128",
    "::1",
    "http://user:s3cret#s@proxy.corp:3128",
    "http://user:12#s3cret@proxy.corp:3128",
    "http://user:12/s3cret@proxy.corp:3128",
    "http://user:12?s3cret@proxy.corp:3128",
    "http://user:s3cret%s@proxy.corp:3128",
    "http://user:s3cret%@proxy.corp:3128",
    "http://user:s3cret%4@proxy.corp:3128",
    "http://user:s3cret%+1@proxy.corp:3128",
    "http://user:s3cret s@proxy.corp:3128",
    "http://user:s3cret^s@proxy.corp:3128",
    "http://user:s3cret[s@proxy.corp:3128",
    "http://user:s3cretä@proxy.corp:3128",
    "http://user:s3cret\\s@proxy.corp:3128",
    "http://user:s3cret\u{fffd}@proxy.corp:3128",
    "socks4://proxy.corp:1080",
    "ftp://proxy.corp",
    "foo://proxy.corp:3128",
    "://proxy.corp:3128",
    "socks5://:s3cret@proxy.corp:1080",
    "socks5://user:s3cret%FF@proxy.corp:1080",
    "http://proxy.corp:3128/path",
    "http://",
    "http:",
    "http:proxy.corp:3128",
    "http:/proxy.corp:3128",
    "//proxy.corp:3128",
    ":3128",
    "http://:3128",
    "/path",
    " ",
    " http://proxy.corp:3128",
    "http://proxy.corp:3128 ",
    "http://proxy.corp:3128\n",
    "http://proxy.corp\n:3128",
    "http://pro xy:3128",
    "http://pro%20xy:3128",
    "http://proxy<x>:3128",
    "http://proxy.corp{x}:3128",
    "http://proxy.corp\":3128",
    "http://proxy.corp`:3128",
    "http://proxy.corp!:3128",
    "http://proxy.corp%zz:3128",
];

#[test]
fn no_proxy_matches_hosts_as_in_go() {
    for &(list, url, is_direct) in NO_PROXY_MATCHES {
        let expected = if is_direct { "direct" } else { "p:1" };
        assert_eq!(route(&[("ALL_PROXY", "p:1"), ("NO_PROXY", list)], url), expected, "{list} {url}");
    }
}

/// A list in `NO_PROXY`, a URL, and whether Go connects without a proxy.
const NO_PROXY_MATCHES: &[(&str, &str, bool)] = &[
    ("", "http://localhost/", true),
    ("", "http://localhost:8080/", true),
    ("", "http://127.0.0.1/", true),
    ("", "http://127.9.8.7:1/", true),
    ("", "http://[::1]/", true),
    ("", "http://[::ffff:127.0.0.1]/", true),
    ("", "http://localhost./", false),
    ("", "http://a.localhost/", false),
    ("", "http://0.0.0.0/", false),
    ("", "http://[::]/", false),
    ("", "http://[::2]/", false),
    ("*", "http://a.test/", true),
    ("x, * ,y", "http://a.test/", true),
    ("a.test", "http://a.test/", true),
    ("a.test", "http://b.a.test/", true),
    ("a.test", "http://ba.test/", false),
    ("a.test", "http://a.test:8080/", true),
    (".a.test", "http://a.test/", false),
    (".a.test", "http://b.a.test/", true),
    ("*.a.test", "http://a.test/", false),
    ("*.a.test", "http://b.a.test/", true),
    ("*.a.test", "http://c.b.a.test/", true),
    ("test", "http://a.test/", true),
    ("A.TEST", "http://a.test/", true),
    ("x , a.test , y", "http://a.test/", true),
    ("\ta.test\t", "http://a.test/", true),
    (",,a.test,", "http://a.test/", true),
    ("a.test:80", "http://a.test/", true),
    ("a.test:443", "https://a.test/", true),
    ("a.test:443", "http://a.test/", false),
    ("a.test:8080", "http://a.test:8080/", true),
    ("a.test:8080", "http://b.a.test:8080/", true),
    ("a.test:8080", "http://a.test:8081/", false),
    (".a.test:8080", "http://b.a.test:8080/", true),
    ("*.a.test:8080", "http://b.a.test:8080/", true),
    ("*.a.test:8080", "http://a.test:8080/", false),
    ("a.test:", "http://a.test:8080/", true),
    ("a.test.", "http://a.test/", false),
    ("a.test.", "http://a.test./", true),
    ("a.test", "http://a.test./", false),
    (".", "http://a.test/", false),
    ("..a.test", "http://b.a.test/", false),
    ("10.1.2.3", "http://10.1.2.3/", true),
    ("10.1.2.3:80", "http://10.1.2.3/", true),
    ("10.1.2.3:81", "http://10.1.2.3/", false),
    ("10.1.2.3", "http://10.1.2.30/", false),
    ("10.1.2.", "http://10.1.2.3/", false),
    ("10.1.2.3", "http://[::ffff:10.1.2.3]/", true),
    ("::ffff:10.1.2.3", "http://10.1.2.3/", true),
    ("010.1.2.3", "http://10.1.2.3/", false),
    ("10.0.0.0/8", "http://10.1.2.3/", true),
    ("10.9.9.9/8", "http://10.1.2.3/", true),
    ("10.0.0.0/08", "http://10.1.2.3/", true),
    ("10.0.0.0/8", "http://[::ffff:10.1.2.3]/", true),
    ("::ffff:10.0.0.0/104", "http://10.1.2.3/", true),
    ("::/0", "http://10.1.2.3/", false),
    ("0.0.0.0/0", "http://10.1.2.3/", true),
    ("0.0.0.0/0", "http://[2001:db8::1]/", false),
    ("0.0.0.0/0", "http://a.test/", false),
    ("2001:db8::/32", "http://[2001:db8::1]/", true),
    ("2001:db8::1", "http://[2001:db8::1]/", true),
    ("2001:DB8:0::1", "http://[2001:db8::1]/", true),
    ("[2001:db8::1]:80", "http://[2001:db8::1]/", true),
    ("[2001:db8::1]:81", "http://[2001:db8::1]/", false),
    ("2001:db8::1:80", "http://[2001:db8::1]/", false),
    ("[a.test]:80", "http://a.test/", true),
    ("bücher.test", "http://xn--bcher-kva.test/", true),
    ("BÜCHER.test", "http://xn--bcher-kva.test/", true),
    ("*.bücher.test:80", "http://a.xn--bcher-kva.test/", true),
    (".bücher.test", "http://xn--bcher-kva.test/", false),
    ("xn--bcher-kva.test", "http://bücher.test/", true),
    ("faß.test", "http://xn--fa-hia.test/", true),
    ("faß.test", "http://fass.test/", false),
    ("ΣΑΣ.test", "http://ΣΑΣ.test/", true),
    ("bücher。test", "http://xn--bcher-kva.test/", true),
    ("ａ.test", "http://a.test/", true),
    ("a_b.test", "http://a_b.test/", true),
    ("ü_b.test", "http://ü_b.test/", true),
];

/// Go accepts brackets around an IPv6 address only before a port. In Go, an entry with brackets and no port matches no
/// host.
#[test]
fn no_proxy_accepts_ipv6_in_brackets_without_a_port() {
    let variables = [("ALL_PROXY", "p:1"), ("NO_PROXY", "[2001:db8::1]")];
    assert_eq!(route(&variables, "http://[2001:db8::1]/"), "direct");
    assert_eq!(route(&variables, "http://[2001:db8::2]/"), "p:1");
}

/// In Go, these entries match no host: calls that the operator wants to be direct go through the proxy.
#[test]
fn calls_through_a_proxy_fail_if_a_no_proxy_entry_matches_no_host() {
    for entry in [
        "a.test:http",
        "a.test:99999",
        ":80",
        "http://a.test",
        "a.test/",
        "a.test/path",
        "x a.test",
        "x;a.test",
        "*a.test",
        "a.*",
        "10.*",
        "user@a.test",
        "10.0.0.0/33",
        "10.0.0.0/+8",
        "10/8",
        "10.0.0.0/8:80",
        "10.0.0.0/255.0.0.0",
        "[2001:db8::]/32",
        "[2001:db8::1",
    ] {
        let list = format!("b.test,{entry}");
        let variables = [("HTTP_PROXY", "p:1"), ("no_proxy", list.as_str())];
        let error = route(&variables, "http://c.test/");
        assert_names("no_proxy", &list, &error);
        assert!(error.contains("entry 2 "), "{error}");
        assert_eq!(route(&variables, "http://b.test/"), "direct", "{entry}");
        assert_eq!(route(&variables, "http://localhost/"), "direct", "{entry}");
        assert_eq!(route(&variables, "https://c.test/"), "direct", "{entry}");
    }
}

#[test]
fn upper_case_names_come_first_and_empty_values_do_not_count() {
    let http = |variables: &[(&'static str, &str)]| route(variables, "http://a.test/");
    assert_eq!(http(&[]), "direct");
    assert_eq!(http(&[("HTTP_PROXY", "upper:1"), ("http_proxy", "lower:1")]), "upper:1");
    assert_eq!(http(&[("HTTP_PROXY", ""), ("http_proxy", "lower:1")]), "lower:1");
    assert_eq!(http(&[("HTTP_PROXY", ""), ("ALL_PROXY", "all:1")]), "all:1");
    assert_eq!(http(&[("HTTP_PROXY", "own:1"), ("all_proxy", "all:1")]), "own:1");
    assert_eq!(http(&[("HTTPS_PROXY", "own:1"), ("ALL_PROXY", "upper:1"), ("all_proxy", "lower:1")]), "upper:1");
    let both = [("ALL_PROXY", "p:1"), ("NO_PROXY", "b.test"), ("no_proxy", "a.test")];
    assert_eq!(http(&both), "p:1");
}

#[test]
fn http_proxy_is_rejected_if_a_client_of_a_web_server_can_set_it() {
    for name in ["HTTP_PROXY", "http_proxy"] {
        let variables = [(name, "p:1"), ("REQUEST_METHOD", "GET"), ("HTTPS_PROXY", "s:1"), ("NO_PROXY", "b.test")];
        assert_names(name, "p:1", &route(&variables, "http://a.test/"));
        assert_eq!(route(&variables, "https://a.test/"), "s:1");
        assert_eq!(route(&variables, "http://b.test/"), "direct");
    }
    assert_eq!(route(&[("HTTP_PROXY", "p:1"), ("REQUEST_METHOD", "")], "http://a.test/"), "p:1");
}

proptest! {
    /// If the HTTP client cannot parse the URL of a proxy, it makes direct calls.
    #[test]
    fn the_http_client_accepts_every_value_that_the_parser_accepts(value in r#"((https?|socks5h?)://)?([ -~\PC]{0,8}@)?([a-z0-9.:\[\]_-]|\PC){0,12}(:[0-9]{1,6})?/?"#) {
        if let Ok(address) = Address::parse(&value) {
            let (uri, host): (http::Uri, _) = (address.url().parse().unwrap(), address.host.to_string());
            prop_assert_eq!(uri.host(), Some(host.as_str()));
            prop_assert_eq!(uri.port_u16(), Some(address.port));
            prop_assert!(address.to_reqwest().is_ok());
        }
    }

    #[test]
    fn no_list_of_exceptions_causes_a_panic(list in r"\PC{0,40}", entry in r"[0-9a-f:.*/\[\]-]{0,20}") {
        let target = Url::parse("http://[2001:db8::1]:8080/").unwrap();
        for list in [list, entry] {
            let variables = [("ALL_PROXY", "p:1".to_owned()), ("NO_PROXY", list)];
            let _ = Proxies::new(&variables).for_url(&target).map_err(|error| error.to_string());
        }
    }
}
