//! Charts that come from repositories: one that is a folder behind HTTP, and an OCI registry.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use libretto_e2e::{
    Step,
    cluster::{self, Output, tool},
    wait,
};
use tempfile::TempDir;

/// Servers of this machine start within a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server until it is dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts what `command` makes for a free port, and waits until it listens.
    async fn start(command: impl FnOnce(u16) -> Step<Command>) -> Step<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let child = command(port)?
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let server = Self { child, port };
        wait::until("the server listens", PATIENCE, || async {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            Ok(())
        })
        .await?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder in which charts and packages are made.
struct Workshop {
    folder: TempDir,
}

impl Workshop {
    fn open() -> Step<Self> {
        let folder = tempfile::tempdir()?;
        let chart = folder.path().join("web");
        fs::create_dir_all(chart.join("templates"))?;
        fs::write(
            chart.join("templates/map.yaml"),
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}-web}\ndata: {greeting: {{ .Values.greeting | quote }}}\n",
        )?;
        fs::write(chart.join("values.yaml"), "greeting: hello\n")?;
        Ok(Self { folder })
    }

    /// Packs the chart in a version; the archive.
    fn pack(&self, version: &str) -> Step<PathBuf> {
        let chart = self.folder.path().join("web");
        fs::write(
            chart.join("Chart.yaml"),
            format!("apiVersion: v2\nname: web\nversion: {version}\n"),
        )?;
        let charts = self.folder.path().join("charts");
        self.helm(&["package", &shown(&chart), "--destination", &shown(&charts)])?;
        Ok(charts.join(format!("web-{version}.tgz")))
    }

    fn helm(&self, arguments: &[&str]) -> Step<String> {
        Output::of(
            Command::new(tool("helm")?)
                .args(arguments)
                // Nothing of whoever runs the tests.
                .env("HOME", self.folder.path()),
        )?
        .ok()
    }

    /// A package whose one rule renders the chart.
    fn package(&self, repository: &str, version: &str) -> Step<PathBuf> {
        let folder = self.folder.path().join("package");
        fs::create_dir_all(&folder)?;
        fs::write(
            folder.join("package.yaml"),
            format!(
                "apiVersion: libretto.dev/v1alpha1
kind: Package
metadata: {{name: sites, version: 0.1.0}}
spec:
  crd: {{group: example.com, kind: Site, version: v1, schema: {{greeting: {{default: hello}}}}}}
  execute:
    - name: web
      helm:
        chart: charts/web
        from: {{repository: \"{repository}\", name: web, version: {version}}}
        values: {{greeting: \"{{{{ cr.greeting }}}}\"}}
"
            ),
        )?;
        Ok(folder)
    }

    fn libretto(&self, arguments: &[&str]) -> Step<Output> {
        Output::of(
            Command::new(cluster::binary()?)
                .args(arguments)
                .env("LIBRETTO_HELM", tool("helm")?)
                .env("HOME", self.folder.path()),
        )
    }

    /// Lints, fetches and plans the package; what the chart made of it.
    fn use_it(&self, package: &Path) -> Step<String> {
        let place = shown(package);
        let said = self.libretto(&["package", "lint", &place])?;
        assert_eq!(said.code, Some(1));
        assert!(
            said.stderr.contains("`libretto package fetch` gets"),
            "{}",
            said.stderr
        );
        self.libretto(&["package", "fetch", &place, "--plain-http", "--force"])?
            .ok()?;
        self.libretto(&["package", "lint", &place])?.ok()?;
        let again = self.libretto(&["package", "fetch", &place])?.ok()?;
        assert!(again.contains("is there"), "{again}");
        let instance = self.folder.path().join("site.yaml");
        fs::write(
            &instance,
            "apiVersion: example.com/v1\nkind: Site\nmetadata: {name: shop}\n",
        )?;
        self.libretto(&["package", "plan", &place, "-f", &shown(&instance)])?
            .ok()
    }
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[tokio::test]
async fn charts_come_from_a_repository_behind_http() -> Step {
    let workshop = Workshop::open()?;
    workshop.pack("1.0.0")?;
    workshop.pack("1.1.0")?;
    let charts = workshop.folder.path().join("charts");
    let server = Server::start(|port| {
        let mut command = Command::new("python3");
        command
            .args(["-m", "http.server", "--bind", "127.0.0.1"])
            .arg(port.to_string())
            .current_dir(&charts);
        Ok(command)
    })
    .await?;
    let repository = format!("http://127.0.0.1:{}", server.port);
    workshop.helm(&["repo", "index", &shown(&charts), "--url", &repository])?;
    let package = workshop.package(&repository, "1.0.0")?;
    let plan = workshop.use_it(&package)?;
    assert!(plan.contains("greeting: hello"), "{plan}");

    // Another version is another archive; both in the folder would be ambiguous, so lint says which is meant.
    let package = workshop.package(&repository, "1.1.0")?;
    fs::remove_file(package.join("charts/web-1.0.0.tgz"))?;
    workshop.use_it(&package)?;
    assert!(package.join("charts/web-1.1.0.tgz").exists());

    let package = workshop.package(&repository, "9.9.9")?;
    let said = workshop.libretto(&["package", "fetch", &shown(&package)])?;
    assert_eq!(said.code, Some(1));
    for part in ["fetch chart web 9.9.9", &repository, "9.9.9"] {
        assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
    }
    Ok(())
}

#[tokio::test]
async fn charts_come_from_an_oci_registry() -> Step {
    let workshop = Workshop::open()?;
    let archive = workshop.pack("1.0.0")?;
    let server = Server::start(|port| {
        let settings = workshop.folder.path().join("registry.yaml");
        let storage = workshop.folder.path().join("registry");
        fs::write(
            &settings,
            format!(
                "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
                storage.display()
            ),
        )?;
        let mut command = Command::new(tool("registry/usr/bin/docker-registry")?);
        command.arg("serve").arg(settings);
        Ok(command)
    })
    .await?;
    let repository = format!("oci://127.0.0.1:{}/charts", server.port);
    workshop.helm(&["push", &shown(&archive), &repository, "--plain-http"])?;
    let package = workshop.package(&repository, "1.0.0")?;
    let plan = workshop.use_it(&package)?;
    assert!(plan.contains("greeting: hello"), "{plan}");
    Ok(())
}
