package server

import (
	"errors"
	"time"

	"signet/internal/gatewayconfig"
	"signet/internal/seal"
)

// OpenSettings returns what opens the values that `signet secret encrypt` has sealed, for
// [gatewayconfig.Options]. Ring is called when there is such a value.
func OpenSettings(ring func() (*seal.Keyring, error)) func(text string) (gatewayconfig.Sealed, error) {
	return func(text string) (gatewayconfig.Sealed, error) {
		k, err := ring()
		if err != nil {
			return gatewayconfig.Sealed{}, err
		}
		setting, err := seal.Open[seal.Setting](k, text)
		if err != nil {
			return gatewayconfig.Sealed{}, gatewayconfig.ErrSealed
		}
		return gatewayconfig.Sealed{Value: setting.Value, At: time.Unix(setting.Sealed, 0), Old: !seal.IsCurrent(k, text)}, nil
	}
}

// SealSetting seals a secret for the gateway's configuration, where it follows enc:.
func SealSetting(ring *seal.Keyring, value string) (string, error) {
	sealed, err := seal.Seal(ring, seal.Setting{Value: value, Sealed: time.Now().Unix()})
	if err == nil && len(sealed) > seal.MaxSize {
		err = errors.New("the secret is too long")
	}
	return sealed, err
}
