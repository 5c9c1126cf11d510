package main

import (
	"fmt"
	"maps"
	"os"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// image describes the result of the last stage of a Dockerfile.
type image struct {
	base        string
	user        string
	stopSignal  string
	args        []string // entry point and command
	health      []string
	ports       []string
	volumes     []string
	environment map[string]string
	copies      []*instructions.CopyCommand
	build       []string // commands of the earlier stages
}

// readDockerfile parses a Dockerfile as BuildKit does.
func readDockerfile(path string) (*image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	tree, err := parser.Parse(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, w := range tree.Warnings {
		return nil, fmt.Errorf("%s: %s", path, w.Short)
	}
	stages, _, err := instructions.Parse(tree.AST, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	img := &image{environment: map[string]string{}}
	for i, s := range stages {
		img.base = s.BaseName
		for _, c := range s.Commands {
			if run, ok := c.(*instructions.RunCommand); ok {
				img.build = append(img.build, run.CmdLine...)
			} else if i == len(stages)-1 {
				img.add(c)
			}
		}
	}
	return img, nil
}

func (img *image) add(c instructions.Command) {
	switch c := c.(type) {
	case *instructions.UserCommand:
		img.user = c.User
	case *instructions.StopSignalCommand:
		img.stopSignal = c.Signal
	case *instructions.EntrypointCommand:
		img.args = append(c.CmdLine, img.args...)
	case *instructions.CmdCommand:
		img.args = append(img.args, c.CmdLine...)
	case *instructions.HealthCheckCommand:
		img.health = c.Health.Test
	case *instructions.ExposeCommand:
		img.ports = append(img.ports, c.Ports...)
	case *instructions.VolumeCommand:
		img.volumes = append(img.volumes, c.Volumes...)
	case *instructions.CopyCommand:
		img.copies = append(img.copies, c)
	case *instructions.EnvCommand:
		for _, kv := range c.Env {
			img.environment[kv.Key] = kv.Value
		}
	}
}

func (img *image) replica() replica {
	return replica{Name: "image", Args: img.args, Environment: maps.Clone(img.environment)}
}
