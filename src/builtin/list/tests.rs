//! An additional service: its options and its line in the list are enough to declare it.

use crate::builtin::option::{About, Allowed, Options, Value, Word, declare, options};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Case {
    Upper,
    Lower,
}

impl Word for Case {
    const VALUES: &'static [Case] = &[Case::Upper, Case::Lower];
}

options! {
    /// Options of the service.
    #[derive(Copy)]
    pub struct CaseOptions {
        /// What letters become.
        pub case: Case = Case::Upper,
            "case" = "CASE", Words(&["upper", "lower"]), "case of letters";
        /// Bytes that are changed.
        pub limit: u32 = 0, "limit" = "SIZE", Size(0, 1 << 20), "bytes that are changed";
    }
    impl {
        fn check_together(&self, given: &[&str]) -> Result<(), String> {
            match (given, self.limit) {
                (["limit"], 0) => Err("limit is 0".into()),
                _ => Ok(()),
            }
        }
    }
}

service_options! {
    echo: Echo = Echo, "sends back every byte";
    case: Case = Capitals(options: CaseOptions), "sends back every byte in another case";
}

#[test]
fn a_line_and_a_table_declare_a_service() {
    let [echo, mut case] = ServiceOptions::all().try_into().expect("the services of the list");
    assert_eq!((echo.name(), echo.what()), ("echo", "sends back every byte"));
    assert_eq!(case.name(), "case");
    assert!(echo.options().about().is_empty());
    assert_eq!(case, ServiceOptions::Case(CaseOptions { case: Case::Upper, limit: 0 }));

    let about = case.options().about();
    let shown = about.iter().map(|about| {
        let About { name, value, allowed, help, .. } = about;
        format!("{name}={value}: {help} ({allowed}) [{}]", about.default_text(case.options()))
    });
    let expected = [
        "case=CASE: case of letters (upper or lower) [upper]",
        "limit=SIZE: bytes that are changed (0 to 1Mi) [0]",
    ];
    assert_eq!(shown.collect::<Vec<_>>(), expected);

    assert_eq!(case.options().written(), []);
    assert_eq!(case.set("limit", b"2k"), Some(Ok(())));
    assert_eq!(case.set("case", b"lower"), Some(Ok(())));
    assert_eq!(case, ServiceOptions::Case(CaseOptions { case: Case::Lower, limit: 2048 }));
    let written = [("case", b"lower".to_vec()), ("limit", b"2Ki".to_vec())];
    assert_eq!(case.options().written(), written);
    assert_eq!(case.set("colour", b"red"), None);
    let error = case.set("limit", b"2m").expect("an option").expect_err("too much");
    assert_eq!(error, "2m must be from 0 to 1048576 bytes");
    assert_eq!(case.options().checked(&["limit"]), Ok(()));
    assert_eq!(CaseOptions::default().checked(&["limit"]), Err("limit is 0".into()));
    let out_of_range = CaseOptions { limit: u32::MAX, ..CaseOptions::default() };
    assert!(out_of_range.checked(&[]).is_err_and(|error| error.contains("limit: 4294967295")));
}
