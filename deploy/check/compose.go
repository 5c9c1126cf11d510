package main

import (
	"context"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// given is the content of the user's .env file beside compose.yaml.
var given = []string{"SIGNET_SECRET=given-secret", "POSTGRES_PASSWORD=given-password"}

// readCompose loads a file as Docker Compose does, with its schema, interpolation,
// anchors and references between parts.
func readCompose(ctx context.Context, path string, environment ...string) (*types.Project, error) {
	if environment == nil {
		environment = given
	}
	o, err := cli.NewProjectOptions([]string{path}, cli.WithEnv(environment))
	if err != nil {
		return nil, err
	}
	return o.LoadProject(ctx)
}

func fromService(img *image, s types.ServiceConfig) replica {
	r := img.replica()
	r.Name, r.Mounts = s.Name, map[string]string{}
	for k, v := range s.Environment {
		if v != nil {
			r.Environment[k] = *v
		}
	}
	for _, v := range s.Volumes {
		r.Mounts[v.Target] = v.Source
	}
	return r
}
