//! The page at `/`, for people: one piece of HTML with its style and its script, which asks this
//! address alone. The browser runs no other script, because the policy names the page's own by its
//! hash.

use axum::http::header;
use axum::response::{Html, IntoResponse};

use super::uplot;

const BODY: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The base64 of the SHA-256 of the style and of the script. A test computes them.
const STYLE_SHA256: &str = "HZDoPIBvwdlFs95ejQt8t/ErFQg2iPxnCK+P8uWhUsM=";
const SCRIPT_SHA256: &str = "3fxYIZ89Xd7B8Gd6h9gyxJFTq/yXFebcjREMMi7p/+0=";

/// The text between the tags of the style.
fn style() -> String {
    format!("{}\n{STYLE}", uplot::STYLE)
}

/// The text between the tags of the script: the licence of uPlot, uPlot, and the page's own.
fn script() -> String {
    format!("/*\nuPlot 1.6.32\n\n{}\n*/\n{}\n{SCRIPT}", uplot::LICENSE, uplot::SCRIPT)
}

/// The page.
pub(super) fn html() -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>echopool</title>\n<style>{}</style>\n</head>\n\
         <body>\n{BODY}<script>{}</script>\n</body>\n</html>\n",
        style(),
        script()
    )
}

/// The reply with the page.
pub(super) fn reply(html: &str) -> impl IntoResponse + use<> {
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{SCRIPT_SHA256}'; \
         style-src 'sha256-{STYLE_SHA256}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(html.to_owned()))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn the_policy_names_the_style_and_the_script_of_the_page() {
        let hash = |text: &str| BASE64.encode(Sha256::digest(text));
        let expected = [hash(&style()), hash(&script())];
        assert_eq!([STYLE_SHA256, SCRIPT_SHA256], expected, "write them into mod.rs");
        let page = html();
        for text in [style(), script()] {
            assert!(!text.contains("</"), "it would end in the middle");
            assert_eq!(page.matches(&text).count(), 1);
        }
    }

    #[test]
    fn the_page_asks_this_address_alone() {
        let own = [BODY, STYLE, SCRIPT].concat();
        for foreign in ["http:", "https:", "//cdn", "url(", "@import", " src=", "onclick", "style="]
        {
            assert!(!own.contains(foreign), "{foreign}");
        }
        assert!(!SCRIPT.contains("innerHTML"), "texts of the server are not markup");
    }
}
