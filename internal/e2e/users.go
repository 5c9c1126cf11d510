package e2e

const AnnsPassword = "seldom purple anvil quarter"
