// Runs an exported folder in Transformers.js: node classify.mjs FOLDER [DTYPE] < texts.json > answers.json
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { AutoModelForSequenceClassification, AutoTokenizer, env } from "@huggingface/transformers";

const [folder, dtype = "q8"] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const name = basename(folder);
const tokenizer = await AutoTokenizer.from_pretrained(name);
// Without a dtype the folder's own config decides.
const model = await AutoModelForSequenceClassification.from_pretrained(
  name,
  dtype === "config" ? {} : { dtype },
);
const texts = JSON.parse(readFileSync(0, "utf-8"));
const { logits } = await model(await tokenizer(texts, { padding: true, truncation: true }));
console.log(JSON.stringify(logits.tolist()));
