package gatewayconfig_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"signet/internal/gatewayconfig"
)

func withToken(value string) string {
	return "security: {rotation_days: 90}\nservers: [{id: a, type: local, auth_strategy: proxy_oauth, auth_config: {token_source: '" + value + "'}, config: {port: 1}}]"
}

func TestSealedValues_Row72(t *testing.T) {
	const aged = "servers[0].auth_config.token_source: was sealed 100 days ago"
	const old = "servers[0].auth_config.token_source: was sealed under an earlier root secret"
	for _, test := range []struct {
		name          string
		sealed        gatewayconfig.Sealed
		err           error
		fault, notice string
	}{
		{"fresh", gatewayconfig.Sealed{Value: "quiet", At: time.Now()}, nil, "", ""},
		{"aged", gatewayconfig.Sealed{Value: "quiet", At: time.Now().Add(-100*24*time.Hour - time.Hour)}, nil, "", aged},
		{"under an earlier secret", gatewayconfig.Sealed{Value: "quiet", At: time.Now(), Old: true}, nil, "", old},
		{"under another secret", gatewayconfig.Sealed{}, gatewayconfig.ErrSealed, "line 2: servers[0].auth_config.token_source: the root secret does not open the value: seal it anew", ""},
		{"no root secret", gatewayconfig.Sealed{}, errors.New("no such file"), "line 2: servers[0].auth_config.token_source: the value cannot be opened: no such file", ""},
		{"lines", gatewayconfig.Sealed{Value: "a\nb"}, nil, "line 2: servers[0].auth_config.token_source: has a value with a control character", ""},
		{"not UTF-8", gatewayconfig.Sealed{Value: "\xff"}, nil, "line 2: servers[0].auth_config.token_source: has a value with a control character, or one that is not UTF-8", ""},
	} {
		c, err := gatewayconfig.Parse([]byte(withToken("enc:SEALED")), gatewayconfig.Options{Decrypt: func(text string) (gatewayconfig.Sealed, error) {
			if text != "SEALED" {
				t.Errorf("%s: %q is opened", test.name, text)
			}
			return test.sealed, test.err
		}})
		if test.fault != "" {
			if err == nil || !strings.HasPrefix(err.Error(), test.fault) {
				t.Errorf("%s: %v, want %q", test.name, err, test.fault)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if c.Servers[0].Token != "quiet" || !strings.HasPrefix(strings.Join(c.Warnings, "\n"), test.notice) || test.notice == "" && len(c.Warnings) > 0 {
			t.Errorf("%s: warnings %q", test.name, c.Warnings)
		}
	}
}

// oldSealed is "quiet" as master-mcp-server seals it under the key "key".
const oldSealed = "enc:gcm:AAECAwQFBgcICQoLRuQDz+oAKbBpxtZ4XfOlBmTbzg5Y"

func TestValuesThatTheOtherGatewaySealed_Row72(t *testing.T) {
	for _, test := range []struct {
		name, text string
		environ    map[string]string
		fault      string
	}{
		{"usual variable", withToken(oldSealed), map[string]string{"MASTER_CONFIG_KEY": "key"}, ""},
		{"other variable", withToken(oldSealed), map[string]string{"MASTER_SECRET_KEY": "key"}, ""},
		{"named variable", strings.Replace(withToken(oldSealed), "{rotation_days: 90}", "{config_key_env: MINE}", 1), map[string]string{"MINE": "key", "MASTER_CONFIG_KEY": "other"}, ""},
		{"wrong key", withToken(oldSealed), map[string]string{"MASTER_CONFIG_KEY": "other"}, "the value of MASTER_CONFIG_KEY does not open it"},
		{"no key", withToken(oldSealed), nil, "the environment variable MASTER_CONFIG_KEY is not set"},
		{"changed", withToken(oldSealed[:len(oldSealed)-4] + "AAAA"), map[string]string{"MASTER_CONFIG_KEY": "key"}, "the value of MASTER_CONFIG_KEY does not open it"},
		{"short", withToken("enc:gcm:AAAA"), map[string]string{"MASTER_CONFIG_KEY": "key"}, "the value of MASTER_CONFIG_KEY does not open it"},
	} {
		c, err := gatewayconfig.Parse([]byte(test.text), gatewayconfig.Options{Environ: func(name string) (string, bool) { value, ok := test.environ[name]; return value, ok }})
		if test.fault != "" {
			if err == nil || !strings.Contains(err.Error(), "servers[0].auth_config.token_source: "+test.fault) {
				t.Errorf("%s: %v, want %q", test.name, err, test.fault)
			}
			continue
		}
		if err != nil || c.Servers[0].Token != "quiet" {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
