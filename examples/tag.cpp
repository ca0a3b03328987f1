// Tags a sound file of any length with an exported model: onnxruntime, no Python. The sound is mono, at the
// model's rate: `ffmpeg -i sound.mp3 -ac 1 -ar 16000 sound.wav` makes it so.
//
// python -m ast_jax convert RUN tagger --to=onnx --input=waveform
// apt install g++ libonnxruntime-dev libsndfile1-dev nlohmann-json3-dev
// g++ -std=c++17 -O2 -I/usr/include/onnxruntime tag.cpp -lonnxruntime -lsndfile -o tag
// ./tag tagger sound.wav

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sndfile.hh>
#include <string>
#include <vector>

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("wanted two arguments, the exported directory and a sound");
  const std::string directory = argv[1], path = argv[2];
  std::ifstream file(directory + "/model_card.json");
  if (!file) throw std::runtime_error(directory + " has no model_card.json: is it an export?");
  const auto card = nlohmann::json::parse(file);
  const std::vector<std::string> labels = card["label_names"];
  const int64_t rate = card["sample_rate_hz"];
  Ort::Env env;
  Ort::Session session(env, (directory + "/model.onnx").c_str(), Ort::SessionOptions());
  const int64_t window = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape()[1];

  SndfileHandle sound_file(path);
  if (sound_file.error()) throw std::runtime_error(path + ": " + sound_file.strError());
  if (sound_file.channels() != 1 || sound_file.samplerate() != rate)
    throw std::runtime_error(path + ": wanted mono at " + std::to_string(rate) + " Hz, got " +
                             std::to_string(sound_file.channels()) + " channels at " +
                             std::to_string(sound_file.samplerate()) + " Hz");
  std::vector<float> sound(sound_file.frames());
  sound.resize(sound_file.read(sound.data(), sound.size()));

  // windows that overlap by half; the last one is what is left
  const int64_t samples = sound.size();
  const char *inputs[] = {"waveform", "num_samples"}, *outputs[] = {"scores"};
  const int64_t shape[] = {1, window}, one[] = {1};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  for (int64_t start = 0; start < std::max<int64_t>(samples - window / 2, 1); start += window / 2) {
    int32_t length = std::min(window, samples - start);
    std::vector<float> piece(sound.begin() + start, sound.begin() + start + length);
    piece.resize(window);
    const Ort::Value given[] = {Ort::Value::CreateTensor<float>(memory, piece.data(), window, shape, 2),
                                Ort::Value::CreateTensor<int32_t>(memory, &length, 1, one, 1)};
    const auto scored = session.Run(Ort::RunOptions(), inputs, given, 2, outputs, 1);
    const float* scores = scored[0].GetTensorData<float>();
    std::vector<int> best(labels.size());
    std::iota(best.begin(), best.end(), 0);
    std::stable_sort(best.begin(), best.end(), [&](int i, int j) { return scores[i] > scores[j]; });
    best.resize(std::min<size_t>(best.size(), 5));
    std::printf("%.2f s: ", double(start) / rate);
    for (int i : best) std::printf("%s%s %.4f", i == best[0] ? "" : ", ", labels[i].c_str(), scores[i]);
    std::printf("\n");
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
