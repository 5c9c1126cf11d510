package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	strict "sigs.k8s.io/yaml"
)

// kustomization has the fields of a kustomize file that deploy/ uses.
type kustomization struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Namespace  string   `json:"namespace"`
	Resources  []string `json:"resources"`
	Images     []struct {
		Name    string `json:"name"`
		NewName string `json:"newName"`
		NewTag  string `json:"newTag"`
	} `json:"images"`
}

// cluster holds the objects that kustomization.yaml names, and the example secrets.
type cluster struct {
	kustomization kustomization
	namespaces    []core.Namespace
	configs       map[string]core.ConfigMap
	secrets       map[string]core.Secret
	deployments   []apps.Deployment
	services      []core.Service
	budgets       []policy.PodDisruptionBudget
	policies      []networking.NetworkPolicy
	ingresses     []networking.Ingress
}

// readCluster reads the manifests as the API server does under strict validation:
// an unknown field is an error, and so is a repeated field.
func readCluster(dir string) (*cluster, error) {
	c := &cluster{configs: map[string]core.ConfigMap{}, secrets: map[string]core.Secret{}}
	b, err := os.ReadFile(filepath.Join(dir, "kustomization.yaml"))
	if err != nil {
		return nil, err
	}
	if err := strict.UnmarshalStrict(b, &c.kustomization); err != nil {
		return nil, fmt.Errorf("kustomization.yaml: %w", err)
	}
	for _, name := range append([]string{"secret.example.yaml"}, c.kustomization.Resources...) {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		err = c.readFile(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return c, nil
}

func (c *cluster) readFile(r io.Reader) error {
	for docs := yaml.NewYAMLReader(bufio.NewReader(r)); ; {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		if err := c.add(doc); err != nil {
			return err
		}
	}
}

func (c *cluster) add(doc []byte) error {
	var of struct{ APIVersion, Kind string }
	if err := strict.Unmarshal(doc, &of); err != nil {
		return err
	}
	switch of.APIVersion + " " + of.Kind {
	case "v1 Namespace":
		return into(doc, &c.namespaces)
	case "v1 Service":
		return into(doc, &c.services)
	case "apps/v1 Deployment":
		return into(doc, &c.deployments)
	case "policy/v1 PodDisruptionBudget":
		return into(doc, &c.budgets)
	case "networking.k8s.io/v1 NetworkPolicy":
		return into(doc, &c.policies)
	case "networking.k8s.io/v1 Ingress":
		return into(doc, &c.ingresses)
	case "v1 ConfigMap":
		var m core.ConfigMap
		err := strict.UnmarshalStrict(doc, &m)
		c.configs[m.Name] = m
		return err
	case "v1 Secret":
		var s core.Secret
		err := strict.UnmarshalStrict(doc, &s)
		c.secrets[s.Name] = s
		return err
	}
	return fmt.Errorf("unknown kind %s of %s", of.Kind, of.APIVersion)
}

func into[T any](doc []byte, list *[]T) error {
	var v T
	if err := strict.UnmarshalStrict(doc, &v); err != nil {
		return err
	}
	*list = append(*list, v)
	return nil
}

// replica assembles the environment of a deployment's container.
func (c *cluster) replica(img *image, d apps.Deployment) (replica, error) {
	container := d.Spec.Template.Spec.Containers[0]
	r := img.replica()
	r.Name, r.Args, r.Mounts = d.Name, append(img.args[:1:1], container.Args...), map[string]string{}
	for _, from := range container.EnvFrom {
		switch {
		case from.ConfigMapRef != nil:
			m, ok := c.configs[from.ConfigMapRef.Name]
			if !ok {
				return r, fmt.Errorf("%s: there is no config map %s", d.Name, from.ConfigMapRef.Name)
			}
			maps.Copy(r.Environment, m.Data)
		case from.SecretRef != nil:
			s, ok := c.secrets[from.SecretRef.Name]
			if !ok {
				return r, fmt.Errorf("%s: there is no secret %s", d.Name, from.SecretRef.Name)
			}
			maps.Copy(r.Environment, s.StringData)
		}
	}
	for _, e := range container.Env {
		r.Environment[e.Name] = e.Value
	}
	for _, m := range container.VolumeMounts {
		for _, v := range d.Spec.Template.Spec.Volumes {
			if v.Name == m.Name && v.Secret != nil {
				r.Mounts[m.MountPath] = "secret " + v.Secret.SecretName
			}
		}
	}
	return r, nil
}
