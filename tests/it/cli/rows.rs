//! A configuration for each message of `check`: good but for one thing.

/// The smallest configuration without faults.
pub(super) const ENTITY: &str = "\
[[entity]]
name = \"acme\"
kind = \"enterprise\"
slug = \"acme-inc\"
token_file = \"DIR/token\"
";
pub(super) const KAFKA: &str = "[kafka]\nbrokers = \"localhost:9092\"\n";
pub(super) const NO_ARCHIVE: &str = "[archive]\nenabled = false\n";

pub(super) fn good() -> String {
    [ENTITY, KAFKA, NO_ARCHIVE].concat()
}

/// A name, and the configuration.
type Row = (&'static str, String);

/// One row for each message.
pub(super) fn rows() -> Vec<Row> {
    [
        file_rows(),
        entity_rows(),
        token_rows(),
        credential_rows(),
        server_rows(),
        kafka_rows(),
        archive_rows(),
    ]
    .concat()
}

/// `lines` after the entity's own.
fn entity(lines: &str) -> String {
    [ENTITY, lines, "\n", KAFKA, NO_ARCHIVE].concat()
}

/// `lines` before everything else.
fn with(lines: &str) -> String {
    [lines, "\n", ENTITY, KAFKA, NO_ARCHIVE].concat()
}

/// `lines` after everything else.
fn section(lines: &str) -> String {
    [ENTITY, KAFKA, NO_ARCHIVE, lines].concat()
}

/// `lines` after Kafka's own.
fn kafka(lines: &str) -> String {
    [ENTITY, KAFKA, lines, "\n", NO_ARCHIVE].concat()
}

/// `lines` as the whole section of the archive.
fn archive(lines: &str) -> String {
    [ENTITY, KAFKA, "[archive]\n", lines].concat()
}

fn dir(lines: &str) -> String {
    archive(&["store = \"dir\"\npath = \"/srv/a\"\n", lines].concat())
}

fn s3(lines: &str) -> String {
    archive(&["store = \"s3\"\nbucket = \"audit\"\nregion = \"us-east-1\"\n", lines].concat())
}

/// A good configuration with one text exchanged.
fn changed(from: &str, to: &str) -> String {
    good().replace(from, to)
}

/// A second entity beside the good one.
fn second(kind: &str, slug: &str, more: &str) -> String {
    let more = format!(
        "[[entity]]\nname = \"second\"\nkind = \"{kind}\"\nslug = \"{slug}\"\n\
         token_file = \"DIR/token\"\n{more}\n"
    );
    [ENTITY, &more, KAFKA, NO_ARCHIVE].concat()
}

fn file_rows() -> Vec<Row> {
    vec![
        ("not TOML", "[kafka\nbrokers = \"ghp_secret\"\n".to_owned()),
        ("key twice", with("[admin]\nlisten = \"off\"\nlisten = \"off\"")),
        ("empty", String::new()),
        ("collect intervals", section("[collect]\npoll_interval_min = \"2m\"")),
        ("collect pages", section("[collect]\nbatch_pages = 0")),
        ("collect pages of another type", section("[collect]\nbatch_pages = 1.5")),
        ("collect bytes without a unit", section("[collect]\nbatch_bytes = \"8\"")),
        ("collect bytes of another type", section("[collect]\nbatch_bytes = 8388608")),
        ("collect bytes nonsense", section("[collect]\nbatch_bytes = \"8 pages\"")),
        ("collect reserve", section("[collect]\nbudget_reserve = -1")),
        (
            "collect sweep age below settling",
            section("[collect]\nsettling = \"3h\"\nsweep_ages = [\"1h\", \"1d\"]"),
        ),
        ("collect sweep ages nonsense", section("[collect]\nsweep_ages = [\"soon\", \"9999d\"]")),
        ("collect last look", section("[collect]\nlast_look_web = \"91d\"")),
        ("state relative", section("[state]\ndir = \"state\"")),
        ("admin not on loopback", section("[admin]\nlisten = \"0.0.0.0:9464\"")),
        ("admin without a port", section("[admin]\nlisten = \"localhost\"")),
        ("daemon grace", section("[daemon]\ngrace = \"1h\"")),
        ("unknown section", section("[achive]\nenabled = false")),
        ("key in the wrong section", section("[daemon]\npoll_interval_min = \"15s\"")),
        ("unknown key", section("[admin]\nlistne = \"off\"")),
        ("unknown key far from all", section("[admin]\nxyzzy = 1")),
    ]
}

fn entity_rows() -> Vec<Row> {
    vec![
        ("no entity", [KAFKA, NO_ARCHIVE].concat()),
        ("entity is a table", [KAFKA, NO_ARCHIVE, "[entity]\nname = \"acme\"\n"].concat()),
        ("entity is a list of texts", ["entity = [\"acme\"]\n", KAFKA, NO_ARCHIVE].concat()),
        ("entity without anything", ["[[entity]]\n", KAFKA, NO_ARCHIVE].concat()),
        ("entity name", changed("\"acme\"", "\"Acme Inc\"")),
        ("entity name of another type", changed("\"acme\"", "5")),
        ("entity name empty", changed("\"acme\"", "\"\"")),
        (
            "entity names twice",
            [ENTITY, &ENTITY.replace("acme-inc", "other"), KAFKA, NO_ARCHIVE].concat(),
        ),
        ("entity kind", changed("\"enterprise\"", "\"user\"")),
        ("entity slug", changed("\"acme-inc\"", "\"https://github.com/enterprises/acme\"")),
        ("entity server", entity("server = \"ghes\"")),
        ("entity lanes", entity("lanes = [\"web\", \"gti\"]")),
        ("entity lanes empty", entity("lanes = []")),
        ("entity lanes of another type", entity("lanes = 2")),
        ("entity lanes that are not for it", entity("lanes = [\"graphql\"]")),
        ("entity retention without a unit", entity("retention.web = \"180\"")),
        ("entity retention in years", entity("retention.web = \"1y\"")),
        ("entity retention out of range", entity("retention.git = \"1m\"")),
        ("entity retention of another type", entity("retention.git = 7")),
        ("entity retention nonsense", entity("retention.git = \"a week\"")),
        ("entity retention is no table", entity("retention = \"7d\"")),
        ("entity overlap of another type", entity("allow_overlap = \"yes\"")),
        ("an age above every retention", section("[collect]\nsweep_ages = [\"1d\", \"181d\"]\n")),
        ("no last look", entity("retention.git = \"6h\"")),
        ("overlap", second("organization", "acme", "")),
        ("overlap allowed by one", second("organization", "acme", "allow_overlap = true")),
        ("the same log twice", second("enterprise", "Acme-Inc", "")),
    ]
}

fn token_rows() -> Vec<Row> {
    vec![
        ("no token", changed("token_file = \"DIR/token\"\n", "")),
        ("token in the file", changed("token_file = \"DIR/token\"", "token = \"ghp_secret\"")),
        ("token as a path", changed("DIR/token", "ghp_secret")),
        ("two tokens", entity("token_env = \"GITHUB_TOKEN\"")),
        ("token file not there", changed("DIR/token", "/nowhere/token")),
        ("token file relative", changed("DIR/token", "token")),
        ("token file empty", changed("DIR/token", "DIR/empty")),
        ("token file with more", changed("DIR/token", "DIR/two-lines")),
        ("token file is a folder", changed("DIR/token", "DIR")),
        (
            "token variable not set",
            changed("token_file = \"DIR/token\"", "token_env = \"NOT_SET\""),
        ),
        (
            "token credential name",
            changed("token_file = \"DIR/token\"", "token_credential = \"a/b\""),
        ),
        (
            "token credential outside of systemd",
            changed("token_file = \"DIR/token\"", "token_credential = \"github\""),
        ),
        ("token file for everybody", changed("DIR/token", "DIR/public")),
    ]
}

/// The entity with credentials in place of its token, and the tables of two.
pub(super) fn pool(names: &str, lines: &str) -> String {
    let entity = ENTITY.replace("token_file = \"DIR/token\"", &format!("credentials = {names}"));
    let pool = "[credential.first]\ntoken_file = \"DIR/token\"\n\
                [credential.second]\ntoken_file = \"DIR/other-token\"\n";
    [pool, lines, "\n", &entity, KAFKA, NO_ARCHIVE].concat()
}

fn credential_rows() -> Vec<Row> {
    let both = "[\"first\", \"second\"]";
    vec![
        ("credentials beside a token", {
            let own = "credentials = [\"first\"]\ntoken_file = \"DIR/token\"";
            pool(both, "").replace(&format!("credentials = {both}"), own)
        }),
        ("credential unknown", pool("[\"frist\", \"second\"]", "")),
        ("credential unknown, far from all", pool("[\"first\", \"second\", \"app\"]", "")),
        ("credential without any table", {
            entity("").replace("token_file = \"DIR/token\"", "credentials = [\"first\"]")
        }),
        ("credential named twice", pool("[\"first\", \"second\", \"first\"]", "")),
        ("credentials empty", pool("[]", "")),
        ("credentials of another type", pool("5", "")),
        ("credential is a token", pool("[\"first\", \"second\", \"ghp_secret\"]", "")),
        ("credential nobody uses", pool("[\"first\"]", "")),
        (
            "credential of another server",
            pool(
                both,
                "server = \"ghes\"\n[server.ghes]\nbase_url = \"https://ghes.example/api/v3/\"",
            ),
        ),
        ("credential of no server", pool(both, "server = \"ghes\"")),
        (
            "credential twice",
            pool(
                "[\"first\", \"second\", \"third\"]",
                "[credential.third]\ntoken_file = \"DIR/token\"",
            ),
        ),
        (
            "credential without anything",
            pool("[\"first\", \"second\", \"third\"]", "[credential.third]"),
        ),
        (
            "credential with a bad name",
            pool(
                "[\"first\", \"second\", \"Third Token\"]",
                "[credential.\"Third Token\"]\ntoken_env = \"X\"",
            ),
        ),
        ("credential is no table", ["credential = 5\n", &good()].concat()),
    ]
}

fn server_rows() -> Vec<Row> {
    vec![
        ("server without a URL", with("[server.ghes]")),
        ("server is a text", with("[server]\nghes = \"https://ghes\"")),
        ("server plain http", with("[server.ghes]\nbase_url = \"http://ghes.example.com/api/v3\"")),
        ("server no URL", with("[server.ghes]\nbase_url = \"ghes\"")),
        ("server other scheme", with("[server.ghes]\nbase_url = \"ftp://ghes/\"")),
        ("server with a password", with("[server.ghes]\nbase_url = \"https://u:p@ghes/api/v3/\"")),
        ("server with a query", with("[server.ghes]\nbase_url = \"https://ghes/api/v3/?a=b\"")),
        ("server is github.com", with("[server.github]\nbase_url = \"https://github.com/\"")),
        ("server is ghe.com", with("[server.github]\nbase_url = \"https://octo.ghe.com/\"")),
        ("server without api/v3", with("[server.ghes]\nbase_url = \"https://ghes.example.com/\"")),
        ("server API version", with("[server.github]\napi_version = \"v3\"")),
        ("server CA file not there", with("[server.github]\nca_file = \"/nowhere/ca.pem\"")),
        ("server CA file not PEM", with("[server.github]\nca_file = \"DIR/token\"")),
        (
            "server proxy with a password",
            with("[server.github]\nproxy = \"http://u:p@proxy:3128\""),
        ),
        ("server proxy scheme", with("[server.github]\nproxy = \"socks5://proxy:3128\"")),
        ("server proxy no URL", with("[server.github]\nproxy = \"proxy\"")),
        ("server time-outs", with("[server.github]\nfirst_byte_timeout = \"5m\"")),
        ("server time-out out of range", with("[server.github]\nconnect_timeout = \"0s\"")),
        ("server body", with("[server.github]\nbody_bytes_max = \"1GiB\"")),
    ]
}

fn kafka_rows() -> Vec<Row> {
    vec![
        ("kafka without brokers", changed("brokers = \"localhost:9092\"\n", "")),
        ("kafka brokers", changed("localhost:9092", "localhost:port")),
        ("kafka brokers of another type", changed("\"localhost:9092\"", "9092")),
        (
            "kafka is a text",
            [ENTITY, NO_ARCHIVE].concat().replace("[[entity]]", "kafka = \"k:9092\"\n[[entity]]"),
        ),
        ("kafka prefix", kafka("id_prefix = \"a b\"")),
        ("kafka topic name", kafka("topics.web = \"a/b\"")),
        ("kafka topic names twice", kafka("topics.web = \"a\"\ntopics.git = \"a\"")),
        ("kafka topic role", kafka("topics.wbe = \"a\"")),
        ("kafka partitions", kafka("data_partitions = 0")),
        ("kafka retention short", kafka("data_retention = \"1d\"")),
        ("kafka compression", kafka("compression = \"brotli\"")),
        ("kafka transaction time-out", kafka("transaction_timeout = \"1h\"")),
        ("kafka secret", kafka("properties.\"sasl.password\" = \"hunter2\"")),
        (
            "kafka secret file not there",
            kafka("properties_files.\"sasl.password\" = \"/nowhere/p\""),
        ),
        (
            "kafka secret twice",
            kafka(
                "properties.\"ssl.key.location\" = \"/k\"\nproperties_files.\"ssl.key.location\" = \"DIR/token\"",
            ),
        ),
        ("kafka refused property", kafka("producer_properties.acks = \"1\"")),
        ("kafka unknown property", kafka("properties.\"ssl.truststore.location\" = \"/t\"")),
        ("kafka no mechanism", kafka("properties.\"security.protocol\" = \"SASL_SSL\"")),
        ("kafka mechanism without SASL", kafka("properties.\"sasl.mechanism\" = \"PLAIN\"")),
        (
            "kafka password in the clear",
            kafka(
                "properties.\"security.protocol\" = \"SASL_PLAINTEXT\"\nproperties.\"sasl.mechanism\" = \"PLAIN\"\n\
             properties.\"sasl.username\" = \"u\"\nproperties_files.\"sasl.password\" = \"DIR/token\"",
            ),
        ),
        ("kafka property of another type", kafka("properties.retries = [1]")),
    ]
}

fn archive_rows() -> Vec<Row> {
    vec![
        ("archive undecided", [ENTITY, KAFKA].concat()),
        ("archive store", archive("store = \"nfs\"")),
        ("archive dir without a path", archive("store = \"dir\"")),
        ("archive dir relative", archive("store = \"dir\"\npath = \"archive\"")),
        ("archive dir with a bucket", dir("bucket = \"audit\"")),
        ("archive s3 without a bucket", archive("store = \"s3\"")),
        ("archive s3 bucket", s3("").replace("\"audit\"", "\"s3://audit\"")),
        ("archive s3 prefix", s3("prefix = \"/a\"")),
        ("archive s3 endpoint", s3("endpoint = \"minio:9000\"")),
        ("archive s3 endpoint no URL", s3("endpoint = \"minio\"")),
        ("archive s3 endpoint with a password", s3("endpoint = \"https://u:p@minio:9000\"")),
        ("archive s3 endpoint in the clear", s3("endpoint = \"http://minio:9000\"")),
        ("archive s3 with a path", s3("path = \"/srv/a\"")),
        ("archive s3 secret", s3("secret_access_key = \"hunter2\"")),
        ("archive name", dir("name = \"My Archive\"")),
        ("archive lock mode", dir("lock_mode = \"worm\"")),
        ("archive lock mode none", dir("lock_mode = \"none\"")),
        ("archive retention short", dir("retention = \"1h\"")),
        ("archive retention over ten years", dir("retention = \"4000d\"")),
        ("archive segment", dir("segment_bytes = \"1GiB\"")),
        ("archive buffer", dir("buffer_bytes = \"4MiB\"")),
        ("archive level", dir("zstd_level = 30")),
    ]
}
