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
# For a run without Kubernetes: any ports, no Redis, and time to look at a pod that leaves.
LOCAL = {
    "GEMA_SERVER_PORT": "0",
    "GEMA_METRICS_PORT": "0",
    "GEMA_CLUSTER_DRIVER": "local",
    "SOKETI_SHUTDOWN_GRACE_PERIOD": "25000",
    "GEMA_SERVER_DRAIN_NOTICE_SECONDS": "20",
}


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
            own = [one for one in self.all("Secret") if one["metadata"]["name"] == source["secretRef"]["name"]]
            variables.update(own[0]["stringData"] if own else SECRET)
        for entry in self.container.get("env", []):
            by_field = {"metadata.name": "gema-5d9c7b8f4-x2x7q"}
            reference = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            variables[entry["name"]] = by_field[reference] if reference else entry["value"]
        return variables

    def data(self, kind, reference):
        [found] = [one for one in self.all(kind) if one["metadata"]["name"] == reference["name"]]
        return found["data"]

    def command(self, folder):
        """What a pod runs, with its files in this folder."""
        [volume] = [volume for volume in self.pod["spec"]["volumes"] if "configMap" in volume]
        [mount] = [mount for mount in self.container["volumeMounts"] if mount["name"] == volume["name"]]
        for name, text in self.data("ConfigMap", volume["configMap"]).items():
            (pathlib.Path(folder) / name).write_text(text)
        # The image has the program under several names.
        words = self.container.get("command", ["gema"]) + self.container["args"]
        link = pathlib.Path(folder) / words[0]
        link.unlink(missing_ok=True)
        link.symlink_to(pathlib.Path(harness.BINARY).absolute())
        return [str(link), *(word.replace(mount["mountPath"], folder) for word in words[1:])]


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
        files = [word for word in manifests.command(folder) if word.startswith("--config")]
        environment = manifests.environment()
        checked = run(harness.BINARY, "check", "--strict", *files, env=environment)
        self.assertEqual(checked.stdout + checked.stderr, "the configuration has no faults\n")
        printed = run(harness.BINARY, "config", *files, env=environment).stdout
        settings = dict(re.findall(r"^(\S+) = (.*?)\s+#", printed, re.MULTILINE))
        self.assertEqual(int(settings["server.port"]), manifests.ports["ws"])
        self.assertEqual(int(settings["metrics.port"]), manifests.ports["metrics"])
        notice, drain = float(settings["server.drain_notice_seconds"]), float(settings["server.drain_seconds"])
        deployment = manifests.one("Deployment")["spec"]
        if settings["cluster.driver"] == '"redis"':
            self.assertGreaterEqual(notice, 5, "as long as Kubernetes takes until nobody sends to the pod")
            self.assertGreater(drain, notice)
            self.assertGreaterEqual(deployment["minReadySeconds"], drain, "the next one waits for the last one")
        else:
            # Two pods that do not exchange events never serve together.
            self.assertEqual((deployment["replicas"], deployment["minReadySeconds"], notice), (1, 0, 0))
            self.assertEqual(deployment["strategy"], {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}})
        self.assertGreaterEqual(manifests.pod["spec"]["terminationGracePeriodSeconds"], drain + 5)

    def assert_serves(self, manifests, folder):
        """The probes of a running pod succeed; of one that leaves all but the readiness'."""
        server = harness.Gema()
        environment = {**manifests.environment(), **LOCAL}
        server.start(manifests.command(folder), **environment)
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
            # Nobody waits for the end of the notice.
            server.process.kill()
            server.process.wait()
            server.process.stdout.close()


def answer(addresses, request):
    """The status that a probe gets."""
    address = addresses[{6001: "ws", 9601: "metrics"}.get(request["port"], request["port"])]
    try:
        return urllib.request.urlopen(address + request["path"], timeout=5).status
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


class Chart(Case):
    FOLDER = ROOT / "config/helm/gema"
    # Enough to start.
    SECRETS = {"secrets": {name: value for name, value in SECRET.items() if name.startswith("PUSHER")}}
    # Every name of Soketi's chart that has a meaning for gema, as one may have used it there.
    OF_SOKETI = """
replicaCount: 3
strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}
imagePullSecrets: [{name: registry}]
fullnameOverride: soketi
app:
  image: {repository: registry.example/gema, pullPolicy: Always, tag: "1"}
  command: [node, --max-old-space-size=256, --max_old_space_size=256, --optimize_for_size, --optimize-for-size,
            /app/bin/server.js, start]
  extraEnv:
    - {name: POD_ID, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: SOKETI_ADAPTER_DRIVER, value: redis}
    - {name: SOKETI_DB_REDIS_HOST, value: redis}
    - {name: SOKETI_DEFAULT_APP_MAX_CONNS, value: "100"}
  extraVolumeMounts: [{name: some-folder, mountPath: /some/path}]
  resources: {limits: {cpu: 250m, memory: 256Mi}}
serviceMonitor: {enabled: true, scrapeInterval: 5s, scrapeTimeout: 3s}
serviceAccount: {create: true, annotations: {a: b}, name: ""}
podAnnotations: {a: b}
podSecurityContext: {fsGroup: 2000}
securityContext: {runAsNonRoot: true, runAsUser: 1000}
service: {type: LoadBalancer, port: 80, annotations: {a: b}}
ingress:
  enabled: true
  class: nginx
  annotations: {a: b}
  hosts: [{host: ws.shop.example, paths: [/]}, {host: ws2.shop.example, paths: []}]
  tls: [{secretName: tls, hosts: [ws.shop.example]}]
autoscaling:
  enabled: true
  minReplicas: 2
  maxReplicas: 100
  targetCPUUtilizationPercentage: 80
  targetMemoryUtilizationPercentage: 80
  behavior: {scaleDown: {stabilizationWindowSeconds: 1800}, scaleUp: {stabilizationWindowSeconds: 10}}
  customMetrics:
    - {type: Pods, pods: {metric: {name: soketi_connected}, target: {type: AverageValue, averageValue: "50"}}}
pdb: {enabled: true, minAvailable: 1}
livenessProbe: {httpGet: {path: /, port: 6001, httpHeaders: [{name: X-Kube-Healthcheck, value: "Yes"}]}}
readinessProbe: {httpGet: {path: /accept-traffic, port: 6001}, periodSeconds: 1}
terminationGracePeriodSeconds: 45
nodeSelector: {disk: ssd}
tolerations: [{key: gema, operator: Exists}]
affinity: {nodeAffinity: {}}
extraVolumes: [{name: some-folder, emptyDir: {}}]
extraContainers: []
extraInitContainers: [{name: wait, image: busybox}]
"""

    def template(self, *values):
        """Helm's answer to these values, the later ones over the earlier."""
        with tempfile.TemporaryDirectory() as folder:
            words = []
            for number, one in enumerate(values):
                file = pathlib.Path(folder) / f"{number}.yaml"
                file.write_text(one if isinstance(one, str) else yaml.safe_dump(one))
                words += ["--values", str(file)]
            return run(program("helm"), "template", "shop", str(self.FOLDER), *words)

    def render(self, *values):
        answer = self.template(self.SECRETS, *values)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        return Manifests(answer.stdout)

    def assert_refused(self, values, why):
        answer = self.template(values)
        self.assertNotEqual(answer.returncode, 0, values)
        self.assertIn(why, answer.stderr)

    def test_with_an_app_alone_it_is_one_node(self):
        self.assert_right(self.render())

    def test_several_pods_meet_in_redis(self):
        # Large numbers stay numbers.
        cluster = {"driver": "redis", "buffer_bytes_max": 33554432}
        network = {"enabled": True, "egress": [{"ports": [{"port": 6379}]}]}
        config = {"cluster": cluster, "redis": {"host": "redis"}, "server": {"workers": 1}}
        manifests = self.render({"replicaCount": 3, "networkPolicy": network, "config": config})
        self.assert_right(manifests)
        self.assertEqual(manifests.one("NetworkPolicy")["spec"]["policyTypes"], ["Ingress", "Egress"])

    def test_the_values_of_soketis_chart_mean_the_same(self):
        manifests = self.render(self.OF_SOKETI)
        self.assert_right(manifests)
        kinds = {object["kind"] for object in manifests.objects}
        self.assertLessEqual({"HorizontalPodAutoscaler", "Ingress", "ServiceAccount", "ServiceMonitor"}, kinds)
        self.assertEqual(manifests.one("PodDisruptionBudget")["spec"]["minAvailable"], 1)
        rules = manifests.one("Ingress")["spec"]["rules"]
        self.assertEqual([rule["http"]["paths"][0]["path"] for rule in rules], ["/", "/app"])
        self.assertEqual(manifests.container["image"], "registry.example/gema:1")
        pod = manifests.pod["spec"]
        for name in ["nodeSelector", "tolerations", "initContainers", "imagePullSecrets"]:
            self.assertTrue(pod[name], name)

    def test_a_misspelt_value_is_refused_wherever_it_stands(self):
        self.assert_refused({**self.SECRETS, "replicaCuont": 2}, "'replicaCuont' not allowed")
        self.assert_refused({**self.SECRETS, "app": {"image": {"tga": "1"}}}, "'tga' not allowed")
        groups = "app service ingress autoscaling pdb serviceMonitor networkPolicy serviceAccount"
        for group in groups.split():
            self.assert_refused({**self.SECRETS, group: {"enabeld": True}}, "'enabeld' not allowed")
        self.assert_refused({**self.SECRETS, "replicaCount": "two"}, "/replicaCount")

    def test_values_that_cannot_work_are_refused_with_a_sentence(self):
        self.assert_refused({}, "there is no app: set secrets.PUSHER_APP_ID")
        self.assert_refused({**self.SECRETS, "replicaCount": 2}, "several pods need Redis")
        self.assert_refused({**self.SECRETS, "autoscaling": {"enabled": True}}, "several pods need Redis")
        self.assert_refused({**self.SECRETS, "terminationGracePeriodSeconds": 25}, "must be more than config.server")

    def test_the_documented_values_work(self):
        manifests = self.render(documented("repository: registry"))
        self.assert_right(manifests)

    def test_the_schema_names_each_value_and_the_versions_are_gemas(self):
        schema = json.loads((self.FOLDER / "values.schema.json").read_text())
        values = yaml.safe_load((self.FOLDER / "values.yaml").read_text())
        known = schema["properties"]
        # Helm gives it to a chart in a chart.
        self.assertIn("global", known)
        self.assertEqual(known.keys() - {"global"}, values.keys())
        for name, group in known.items():
            if "properties" in group:
                self.assertEqual(group["properties"].keys(), values[name].keys(), name)
        version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
        self.assertEqual(yaml.safe_load((self.FOLDER / "Chart.yaml").read_text())["appVersion"], version)
        kustomization = yaml.safe_load((ROOT / "config/kubernetes/kustomization.yaml").read_text())
        self.assertEqual([image["newTag"] for image in kustomization["images"]], [version])

    def test_helm_finds_nothing_to_complain_of(self):
        linted = run(program("helm"), "lint", "--strict", str(self.FOLDER), "--set", "existingSecret=gema")
        self.assertEqual(linted.returncode, 0, linted.stdout + linted.stderr)
