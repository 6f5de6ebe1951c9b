use super::*;

#[test]
fn the_command_line_is_consistent() {
    command().debug_assert();
}

#[test]
fn an_address_has_the_forms_of_the_ready_line_and_of_the_flag() {
    let tcp = |text: &str| At::Tcp(text.to_owned());
    for (text, expected) in [
        ("9000", tcp("127.0.0.1:9000")),
        (":9000", tcp("127.0.0.1:9000")),
        ("localhost:9000", tcp("localhost:9000")),
        ("http://127.0.0.1:9000", tcp("127.0.0.1:9000")),
        ("http://[::1]:9000/", tcp("[::1]:9000")),
        ("unix:///run/echopool/admin", At::Unix("/run/echopool/admin".into())),
        ("/run/echopool/admin", At::Unix("/run/echopool/admin".into())),
    ] {
        assert_eq!(At::parse(text), Ok(expected), "{text}");
    }
    for wrong in ["", "x", "localhost", "::1:9000", "99999", "unix://x", "http://x:9/metrics"] {
        assert!(At::parse(wrong).unwrap_err().contains("write 9000"), "{wrong}");
    }
}
