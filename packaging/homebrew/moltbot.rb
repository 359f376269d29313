# Builds what is committed in the checkout that this file is in:
#   brew install --HEAD ./packaging/homebrew/moltbot.rb
class Moltbot < Formula
  desc "Always-on gateway daemon of a personal assistant, and its client"
  homepage "https://molt.bot"
  license "MIT"
  head "file://#{File.expand_path("../..", __dir__)}", using: :git

  depends_on "rust" => :build

  def install
    system "cargo", "install", *std_cargo_args(path: "moltbotd")
    system "cargo", "install", *std_cargo_args(path: "moltbotctl")
    system "cargo", "run", "--locked", "--release", "-p", "moltbot-packaging", "--", "documents"
    man1.install Dir["documents/man/*.1"]
    man8.install "documents/man/moltbotd.8"
    %w[moltbotd moltbotctl].each do |program|
      bash_completion.install "documents/completions/bash/#{program}"
      zsh_completion.install "documents/completions/zsh/_#{program}"
      fish_completion.install "documents/completions/fish/#{program}.fish"
    end
  end

  # Without a formula's service `moltbotctl service install` writes a property list of its own.
  service do
    run [opt_bin/"moltbotd"]
    keep_alive successful_exit: false
    throttle_interval 5
    log_path var/"log/moltbotd.log"
    error_log_path var/"log/moltbotd.log"
  end

  test do
    (testpath/"moltbot.json").write "{ gateway: { port: #{free_port} } }"
    system bin/"moltbotd", "--config", testpath/"moltbot.json", "--state-dir", testpath/"state", "check"
    assert_match version.to_s, shell_output("#{bin}/moltbotctl --version")
  end
end
