"""The files for Kubernetes: right for its schemas, and what they start serves where their probes look."""

import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request

import kubernetes_validate
import yaml

import gema as harness

ROOT = harness.HERE.parents[2]
# kubectl and Helm, which tests/clients/run unpacks.
PROGRAMS = harness.HERE.parent / ".venv/kubernetes"
# The oldest version that the files are for, and the newest whose schemas there are.
VERSIONS = ["1.25", kubernetes_validate.latest_version()]
# Values for the Secret, as an operator would choose them.
SECRET = {
    "PUSHER_APP_ID": harness.APP_ID,
    "PUSHER_APP_KEY": harness.KEY,
    "PUSHER_APP_SECRET": harness.SECRET,
    "SOKETI_DB_REDIS_PASSWORD": "of-redis",
}
# For a run without Kubernetes: any ports, and no Redis.
LOCAL = {"GEMA_SERVER_PORT": "0", "GEMA_METRICS_PORT": "0", "GEMA_CLUSTER_DRIVER": "local", "GEMA_SERVER_WORKERS": "1"}


def program(name):
    own = PROGRAMS / name / name
    found = str(own) if own.exists() else shutil.which(name)
    if not found:
        raise unittest.SkipTest(f"no {name} here: the package that has it is for x86_64")
    return found


def run(*words, **options):
    return subprocess.run(words, capture_output=True, text=True, timeout=60, **options)


class Manifests:
    """What one apply makes, by kind."""

    def __init__(self, text):
        self.objects = [object for object in yaml.safe_load_all(text) if object]

    def all(self, kind):
        return [object for object in self.objects if object["kind"] == kind]

    def one(self, kind):
        [object] = self.all(kind)
        return object

    @property
    def pod(self):
        return self.one("Deployment")["spec"]["template"]

    @property
    def container(self):
        [container] = self.pod["spec"]["containers"]
        return container

    @property
    def ports(self):
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}

    def environment(self):
        """The variables of a pod."""
        variables = {}
        for source in self.container.get("envFrom", []):
            variables.update(SECRET if "secretRef" in source else self.data("ConfigMap", source["configMapRef"]))
        for entry in self.container.get("env", []):
            by_field = {"metadata.name": "gema-5d9c7b8f4-x2x7q"}
            reference = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            variables[entry["name"]] = by_field[reference] if reference else entry["value"]
        return variables

    def data(self, kind, reference):
        [found] = [one for one in self.all(kind) if one["metadata"]["name"] == reference["name"]]
        return found["data"]

    def arguments(self, folder):
        """The arguments of a pod's program, with its files in this folder."""
        volumes = {volume["name"]: volume for volume in self.pod["spec"].get("volumes", [])}
        arguments = self.container["args"]
        for mount in self.container.get("volumeMounts", []):
            for name, text in self.data("ConfigMap", volumes[mount["name"]]["configMap"]).items():
                (pathlib.Path(folder) / name).write_text(text)
            arguments = [argument.replace(mount["mountPath"], folder) for argument in arguments]
        return arguments


class Case(unittest.TestCase):
    def assert_right(self, manifests):
        """Whatever holds for the plain files and for the chart."""
        self.assert_schemas(manifests)
        self.assert_names(manifests)
        with tempfile.TemporaryDirectory() as folder:
            self.assert_settings(manifests, folder)
            self.assert_serves(manifests, folder)

    def assert_schemas(self, manifests):
        for object in manifests.objects:
            for version in VERSIONS:
                with self.subTest(kind=object["kind"], version=version):
                    try:
                        kubernetes_validate.validate(object, version, strict=True)
                    except kubernetes_validate.SchemaNotFoundError:
                        # An operator's own kind.
                        self.assertEqual(object["kind"], "ServiceMonitor")

    def assert_names(self, manifests):
        """Each name that one object has of another is there."""
        labels, ports = manifests.pod["metadata"]["labels"], manifests.ports

        def selects_pods(selector):
            self.assertLessEqual(selector.items(), labels.items())

        deployment = manifests.one("Deployment")
        selects_pods(deployment["spec"]["selector"]["matchLabels"])
        for spread in manifests.pod["spec"].get("topologySpreadConstraints", []):
            selects_pods(spread["labelSelector"]["matchLabels"])
        for service in manifests.all("Service"):
            selects_pods(service["spec"]["selector"])
            for port in service["spec"]["ports"]:
                self.assertIn(port["targetPort"], ports)
        for budget in manifests.all("PodDisruptionBudget"):
            selects_pods(budget["spec"]["selector"]["matchLabels"])
        for policy in manifests.all("NetworkPolicy"):
            selects_pods(policy["spec"]["podSelector"]["matchLabels"])
            for rule in policy["spec"]["ingress"]:
                self.assertLessEqual({port["port"] for port in rule["ports"]}, ports.keys())
        for autoscaler in manifests.all("HorizontalPodAutoscaler"):
            self.assertEqual(autoscaler["spec"]["scaleTargetRef"]["name"], deployment["metadata"]["name"])
            self.assertNotIn("replicas", deployment["spec"], "two would say how many")

    def assert_settings(self, manifests, folder):
        """gema knows each setting, listens where the pod says, and has the time to leave."""
        files = [argument for argument in manifests.arguments(folder) if argument.startswith("--config")]
        environment = manifests.environment()
        checked = run(harness.BINARY, "check", "--strict", *files, env=environment)
        self.assertEqual(checked.stdout + checked.stderr, "the configuration has no faults\n")
        printed = run(harness.BINARY, "config", *files, env=environment).stdout
        settings = dict(re.findall(r"^(\S+) = (.*?)\s+#", printed, re.MULTILINE))
        self.assertEqual(int(settings["server.port"]), manifests.ports["ws"])
        self.assertEqual(int(settings["metrics.port"]), manifests.ports["metrics"])
        self.assertEqual(settings["cluster.driver"], '"redis"')
        notice, drain = float(settings["server.drain_notice_seconds"]), float(settings["server.drain_seconds"])
        self.assertGreaterEqual(notice, 5, "as long as Kubernetes takes until nobody sends to the pod")
        self.assertGreater(drain, notice)
        self.assertGreaterEqual(manifests.pod["spec"]["terminationGracePeriodSeconds"], drain + 5)

    def assert_serves(self, manifests, folder):
        """The probes of a running pod succeed; of one that leaves all but the readiness'."""
        server = harness.Gema()
        environment = {**manifests.environment(), **LOCAL, "GEMA_SERVER_DRAIN_NOTICE_SECONDS": "2.5"}
        server.start(arguments=manifests.arguments(folder), **environment, SOKETI_SHUTDOWN_GRACE_PERIOD="3000")
        try:
            ready = next(line for line in map(json.loads, server.log) if line["message"] == "ready")
            self.assertEqual(ready["name"], environment["GEMA_SERVER_NAME"])
            addresses = {"ws": ready["address"], "metrics": ready["metrics_address"]}
            addresses = {name: f"http://127.0.0.1:{address.rsplit(':', 1)[1]}" for name, address in addresses.items()}
            probe = lambda name: answer(addresses, manifests.container[name]["httpGet"])
            for name in ["startupProbe", "livenessProbe", "readinessProbe"]:
                self.assertEqual(probe(name), 200, name)
            metrics = urllib.request.urlopen(addresses["metrics"] + "/metrics").read().decode()
            for autoscaler in manifests.all("HorizontalPodAutoscaler"):
                pods = [metric["pods"] for metric in autoscaler["spec"]["metrics"] if metric["type"] == "Pods"]
                for metric in pods:
                    name = metric["metric"]["name"]
                    self.assertTrue(f"\n{name}{{" in metrics, f"{name} is no metric of gema")
            server.process.terminate()
            harness.until(lambda: probe("readinessProbe") == 503, "a pod that leaves is not ready")
            self.assertEqual(probe("livenessProbe"), 200)
        finally:
            server.stop()


def answer(addresses, request):
    """The status that a probe gets."""
    try:
        return urllib.request.urlopen(addresses[request["port"]] + request["path"], timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code


def documented(text):
    """The example of docs/kubernetes.md that contains the text."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/kubernetes.md").read_text(), re.DOTALL)
    [block] = [block for block in blocks if text in block]
    return block


class PlainFiles(Case):
    def build(self, folder):
        built = run(program("kubectl"), "kustomize", str(folder))
        self.assertEqual(built.returncode, 0, built.stderr)
        return Manifests(built.stdout)

    def test_they_are_a_server_of_several_nodes(self):
        manifests = self.build(ROOT / "config/kubernetes")
        self.assert_right(manifests)
        kinds = {object["kind"] for object in manifests.objects}
        self.assertLessEqual({"HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget"}, kinds)

    def test_an_overlay_as_documented_has_its_own_settings(self):
        with tempfile.TemporaryDirectory(dir=PROGRAMS.parent) as folder:
            # Kustomize takes no absolute paths.
            files = "../../../../config/kubernetes"
            overlay = documented("namespace: shop").replace("path/to/gema/config/kubernetes", files)
            (pathlib.Path(folder) / "kustomization.yaml").write_text(overlay)
            settings = (ROOT / "config/kubernetes/gema.toml").read_text().replace("workers = 2", "workers = 1")
            (pathlib.Path(folder) / "gema.toml").write_text(settings)
            manifests = self.build(folder)
        self.assert_schemas(manifests)
        self.assertEqual({object["metadata"]["namespace"] for object in manifests.objects}, {"shop"})
        self.assertEqual(manifests.container["image"], "registry.shop.example/gema:0.1.0")
        [config] = manifests.pod["spec"]["volumes"]
        self.assertIn("workers = 1", manifests.data("ConfigMap", config["configMap"])["gema.toml"])

    def test_the_documented_ingress_leads_to_the_service(self):
        ingress = Manifests(documented("kind: Ingress"))
        self.assert_schemas(ingress)
        [rule] = ingress.one("Ingress")["spec"]["rules"]
        [path] = rule["http"]["paths"]
        backend, services = path["backend"]["service"], self.build(ROOT / "config/kubernetes").all("Service")
        [ports] = [one["spec"]["ports"] for one in services if one["metadata"]["name"] == backend["name"]]
        self.assertIn(backend["port"]["name"], [port["name"] for port in ports])
