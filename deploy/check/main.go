// Check reads the files of deploy/ with the types and parsers of Docker, Compose and
// Kubernetes, so that it finds errors without running any of them. It is a separate
// module because Signet needs none of these libraries.
//
// The program prints, as JSON, the settings with which each file starts Signet. The
// tests of the main module start Signet with exactly these settings.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
)

// replica describes how one process of Signet is started.
type replica struct {
	Name        string            `json:"name"`
	Args        []string          `json:"args"`
	Environment map[string]string `json:"environment"`
	Mounts      map[string]string `json:"mounts"` // mount path to source
}

// plans holds the replicas of every file.
type plans struct {
	Image      replica   `json:"image"`
	Build      []string  `json:"build"` // commands of the build stage
	User       string    `json:"user"`
	Health     []string  `json:"health"`
	Compose    []replica `json:"compose"`
	Kubernetes []replica `json:"kubernetes"`
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
}

// run prints the plans of the folder dir.
func run(dir string) error {
	img, err := readDockerfile(dir + "/Dockerfile")
	if err != nil {
		return err
	}
	compose, err := readCompose(context.Background(), dir+"/compose.yaml")
	if err != nil {
		return err
	}
	cluster, err := readCluster(dir + "/kubernetes")
	if err != nil {
		return err
	}
	p := plans{Image: img.replica(), Build: img.build, User: img.user, Health: img.health}
	for _, name := range compose.ServiceNames() {
		if s := compose.Services[name]; s.Image == "signet" {
			p.Compose = append(p.Compose, fromService(img, s))
		}
	}
	for _, d := range cluster.deployments {
		r, err := cluster.replica(img, d)
		if err != nil {
			return err
		}
		p.Kubernetes = append(p.Kubernetes, r)
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(p)
}
