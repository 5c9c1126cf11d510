package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const inHand = 25 * time.Second // how long a stopping server waits for running requests

func TestDockerfile(t *testing.T) {
	img, err := readDockerfile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	if img.base != "scratch" || img.user != "65532:65532" || img.stopSignal != "SIGTERM" {
		t.Errorf("base %q, user %q, stop signal %q", img.base, img.user, img.stopSignal)
	}
	if want := []string{"CMD", "/signet", "doctor", "--ready"}; !slices.Equal(img.health, want) {
		t.Errorf("health check %q, want %q (the image has no shell)", img.health, want)
	}
	if want := []string{"/signet", "serve"}; !slices.Equal(img.args, want) {
		t.Errorf("runs %q, want %q", img.args, want)
	}
	if !slices.Equal(img.ports, []string{"8080"}) || !slices.Equal(img.volumes, []string{"/data"}) {
		t.Errorf("ports %q, volumes %q", img.ports, img.volumes)
	}
	var to []string
	for _, c := range img.copies {
		to = append(to, c.DestPath)
		if c.From != "build" {
			t.Errorf("%s is not from the build stage", c.DestPath)
		}
		if c.DestPath == "/data" && c.Chown != img.user {
			t.Errorf("/data belongs to %q, want %s", c.Chown, img.user)
		}
	}
	if want := []string{"/etc/ssl/certs/ca-certificates.crt", "/signet", "/data"}; !slices.Equal(to, want) {
		t.Errorf("the image has %q, want %q", to, want)
	}
	if !strings.Contains(strings.Join(img.build, "\n"), "CGO_ENABLED=0 go build") {
		t.Errorf("build commands %q, want a static program", img.build)
	}
}

func TestCompose(t *testing.T) {
	p, err := readCompose(t.Context(), "../compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	nginx := p.Services["nginx"].Networks["front"]
	if nginx == nil || nginx.Ipv4Address == "" || !slices.Contains(nginx.Aliases, "auth.example.com") {
		t.Fatalf("nginx in the network: %+v, want an address and the issuer's name", nginx)
	}
	roles := map[string]int{}
	for name, s := range p.Services {
		if s.Image != "signet" {
			continue
		}
		role := *s.Environment["SIGNET_ROLE"]
		roles[role]++
		checkService(t, s, role, nginx.Ipv4Address)
		if front := s.Networks["front"]; front == nil || !slices.Contains(p.Services["nginx"].ExtraHosts[name], front.Ipv4Address) {
			t.Errorf("nginx has no address for %s", name)
		}
	}
	if roles["auth"] != 2 || roles["mcp"] != 3 || len(roles) != 2 {
		t.Errorf("replicas by role: %v", roles)
	}
	if !p.Networks["store"].Internal {
		t.Error("the database's network is not internal")
	}
}

func checkService(t *testing.T, s types.ServiceConfig, role, proxy string) {
	t.Helper()
	if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.Privileged || s.User != "" {
		t.Errorf("%s has more privileges than it needs", s.Name)
	}
	if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) <= 5*time.Second+inHand {
		t.Errorf("%s is killed while it drains: %v", s.Name, s.StopGracePeriod)
	}
	if got := *s.Environment["SIGNET_TRUSTED_PROXIES"]; got != proxy+"/32" {
		t.Errorf("%s trusts %s, but the address of nginx is %s", s.Name, got, proxy)
	}
	_, store := s.Networks["store"]
	if _, secret := s.Environment["SIGNET_SECRET"]; store != (role == "auth") || secret != (role == "auth") {
		t.Errorf("%s has role %s: in the database's network %v, has the secret %v", s.Name, role, store, secret)
	}
}

// The compose file contains no secret, and does not start without one.
func TestComposeNeedsSecrets(t *testing.T) {
	for _, missing := range given {
		rest := slices.DeleteFunc(slices.Clone(given), func(s string) bool { return s == missing })
		name, _, _ := strings.Cut(missing, "=")
		if _, err := readCompose(t.Context(), "../compose.yaml", rest...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v, want an error that names it", name, err)
		}
	}
}

func TestKubernetes(t *testing.T) {
	c, err := readCluster("../kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	drain, err := time.ParseDuration(c.configs["signet"].Data["SIGNET_DRAIN_DELAY"])
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int32{"signet-auth": 2, "signet-mcp": 3}
	if len(c.deployments) != len(want) {
		t.Errorf("%d deployments", len(c.deployments))
	}
	for _, d := range c.deployments {
		if *d.Spec.Replicas != want[d.Name] || d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0 {
			t.Errorf("%s: %d replicas, of which %s may be unavailable", d.Name, *d.Spec.Replicas, d.Spec.Strategy.RollingUpdate.MaxUnavailable)
		}
		pod := d.Spec.Template.Spec
		if grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second; grace <= drain+inHand {
			t.Errorf("%s is killed after %s, but may need %s to stop", d.Name, grace, drain+inHand)
		}
		checkPod(t, d.Name, pod)
		checkSelectors(t, c, d.Name, d.Spec.Selector, d.Spec.Template.Labels)
	}
}

// checkPod checks the "restricted" pod security level of Kubernetes, and more.
func checkPod(t *testing.T, name string, pod core.PodSpec) {
	t.Helper()
	s, k := pod.SecurityContext, pod.Containers[0]
	if !*s.RunAsNonRoot || *s.RunAsUser != 65532 || s.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
		t.Errorf("%s runs as %+v", name, s)
	}
	if x := k.SecurityContext; *x.AllowPrivilegeEscalation || !*x.ReadOnlyRootFilesystem || !slices.Equal(x.Capabilities.Drop, []core.Capability{"ALL"}) {
		t.Errorf("%s: %+v", name, x)
	}
	if *pod.AutomountServiceAccountToken || *pod.EnableServiceLinks || pod.HostNetwork {
		t.Errorf("%s has a service account token, service links or the host's network", name)
	}
	if k.LivenessProbe.HTTPGet.Path != "/livez" || k.ReadinessProbe.HTTPGet.Path != "/readyz" || k.StartupProbe.HTTPGet.Path != "/livez" {
		t.Errorf("%s has wrong probe paths", name)
	}
	if len(pod.TopologySpreadConstraints) == 0 || k.Resources.Limits.Memory().IsZero() {
		t.Errorf("%s has no topology spread constraints or no memory limit", name)
	}
	secret := slices.ContainsFunc(k.EnvFrom, func(e core.EnvFromSource) bool { return e.SecretRef != nil }) || len(pod.Volumes) > 0
	if secret != (name == "signet-auth") {
		t.Errorf("%s holds secrets: %v", name, secret)
	}
	for _, v := range pod.Volumes {
		if *v.Secret.DefaultMode != 0o440 || *s.FSGroup != *s.RunAsUser {
			t.Errorf("%s: volume %s has mode %o and group %d", name, v.Name, *v.Secret.DefaultMode, *s.FSGroup)
		}
	}
}

// checkSelectors checks that a service, a disruption budget, a network policy and an
// ingress select a deployment by its labels.
func checkSelectors(t *testing.T, c *cluster, name string, own *meta.LabelSelector, labels map[string]string) {
	t.Helper()
	matches := func(s map[string]string) bool {
		for k, v := range s {
			if labels[k] != v {
				return false
			}
		}
		return len(s) > 0
	}
	if !matches(own.MatchLabels) {
		t.Errorf("%s does not select its own pods", name)
	}
	service, budget, policed, reached := 0, 0, 0, false
	for _, s := range c.services {
		if matches(s.Spec.Selector) {
			service++
			for _, i := range c.ingresses {
				for _, p := range i.Spec.Rules[0].HTTP.Paths {
					reached = reached || p.Backend.Service.Name == s.Name && p.Backend.Service.Port.Name == s.Spec.Ports[0].Name
				}
			}
		}
	}
	for _, b := range c.budgets {
		if matches(b.Spec.Selector.MatchLabels) {
			budget++
		}
	}
	for _, p := range c.policies {
		if matches(p.Spec.PodSelector.MatchLabels) {
			policed++
		}
	}
	if service != 1 || budget != 1 || policed == 0 || !reached {
		t.Errorf("%s: %d services, %d budgets, %d network policies, reachable from outside %v", name, service, budget, policed, reached)
	}
}

// Applying the example secrets would replace the real ones.
func TestKubernetesAppliesNoExampleSecrets(t *testing.T) {
	c, err := readCluster("../kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(c.kustomization.Resources, "secret.example.yaml") {
		t.Error("kustomization.yaml applies the example secrets")
	}
	for _, s := range c.secrets {
		for name, value := range s.StringData {
			if !strings.Contains(value, "REPLACE") {
				t.Errorf("%s of secret %s has no REPLACE in its value", name, s.Name)
			}
		}
	}
	files, err := filepath.Glob("../kubernetes/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := filepath.Base(f)
		if name != "kustomization.yaml" && name != "secret.example.yaml" && !slices.Contains(c.kustomization.Resources, name) {
			t.Errorf("kustomization.yaml does not apply %s", name)
		}
	}
}

// Each case breaks one thing in one file, and the check must refuse it.
func TestChangedFilesAreRefused(t *testing.T) {
	for _, tt := range []struct{ file, from, to string }{
		{"Dockerfile", "WORKDIR /data", "WORKDIRS /data"},
		{"Dockerfile", "EXPOSE 8080", "EXPOSE"},
		{"Dockerfile", "--retries=3", "--retry=3"},
		{"compose.yaml", "read_only: true", "readonly: true"},
		{"compose.yaml", "cap_drop: [ALL]", "cap_drop: ALL"},
		{"compose.yaml", "postgres:\n      condition", "postgresql:\n      condition"},
		{"compose.yaml", "store: {}", "stores: {}"},
		{"kubernetes/auth.yaml", "replicas: 2", "replicas: two"},
		{"kubernetes/auth.yaml", "readinessProbe:", "readynessProbe:"},
		{"kubernetes/auth.yaml", "name: signet\n            - secretRef", "name: signet2\n            - secretRef"},
		{"kubernetes/mcp.yaml", "apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n"},
		{"kubernetes/network.yaml", "policyTypes", "policyType"},
		{"kubernetes/kustomization.yaml", "ingress.yaml", "ingres.yaml"},
		{"kubernetes/secret.example.yaml", "stringData", "stringdate"},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS("..")); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, tt.file)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(b), tt.from, tt.to, 1)
		if changed == string(b) {
			t.Errorf("%s has no %q", tt.file, tt.from)
		}
		if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := run(dir); err == nil {
			t.Errorf("%s with %q was accepted", tt.file, tt.to)
		}
	}
}

// The build context contains the sources and no secret.
func TestBuildContextHasNoSecrets(t *testing.T) {
	f, err := os.Open("../Dockerfile.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"data/secret": true, "examples/simple/data/signet.db": true, ".env": true, "deploy/.env": true, "deploy/certs/auth.example.com.key": true, ".git/config": true, ".cache/node/x": true, "signet": true,
		"go.mod": false, "main.go": false, "handlers/pages/messages.json": false, "internal/store/store.go": false,
	} {
		if got, err := ignored.MatchesOrParentMatches(path); err != nil || got != want {
			t.Errorf("%s: ignored %v, want %v (%v)", path, got, want, err)
		}
	}
}
